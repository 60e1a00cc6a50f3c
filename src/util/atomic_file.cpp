#include "atomic_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "gsd/error.h"

namespace gsd {

AtomicFile::AtomicFile(std::string path, std::string what, unsigned permissions)
    : path_(std::move(path)), what_(std::move(what)) {
  std::error_code ignored;
  if (std::filesystem::exists(path_, ignored) && !std::filesystem::is_regular_file(path_, ignored))
    throw Error(ErrorCode::kIo, "'" + path_ + "' is no ordinary file; give another name.");
  static std::atomic<unsigned> count = 0;
  int fd = -1;
  do {  // a name may be left by a process that was killed and had the same id
    scratch_ = path_ + "." + std::to_string(::getpid()) + "-" + std::to_string(count++) + ".part";
    fd = ::open(scratch_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, permissions);
  } while (fd < 0 && errno == EEXIST);
  if (fd < 0) fail(errno);
  file_.reset(::fdopen(fd, "wb"));
  if (file_) return;
  const int error = errno;
  ::close(fd);
  ::unlink(scratch_.c_str());
  fail(error);
}

AtomicFile::~AtomicFile() {
  if (!committed_) ::unlink(scratch_.c_str());
}

void AtomicFile::write(std::string_view bytes) {
  if (bytes.empty()) return;  // fwrite takes no null pointer, not even for nothing
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size() && error_ == 0) error_ = errno;
}

void AtomicFile::commit() {
  if (error_ != 0) fail(error_);
  if (std::fflush(file_.get()) != 0 || ::fsync(::fileno(file_.get())) != 0) fail(errno);
  if (std::fclose(file_.release()) != 0) fail(errno);
  if (std::rename(scratch_.c_str(), path_.c_str()) != 0) fail(errno);
  committed_ = true;
}

void AtomicFile::fail(int error) const {
  throw Error(ErrorCode::kIo, "The " + what_ + " '" + path_ + "' cannot be written: " + std::strerror(error) + ".");
}

FileLock::FileLock(const std::string& path, Busy busy) : fd_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  const int operation = LOCK_EX | (busy == Busy::kThrow ? LOCK_NB : 0);
  int result = -1;
  while (fd_ >= 0 && (result = ::flock(fd_, operation)) != 0 && errno == EINTR) {
  }
  if (result == 0) return;
  const std::string reason = std::strerror(errno);
  if (fd_ >= 0) ::close(fd_);
  throw Error(ErrorCode::kIo, "The file '" + path + "' cannot be locked: " + reason + ".");
}

FileLock::~FileLock() { ::close(fd_); }

}  // namespace gsd
