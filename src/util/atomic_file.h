// Files that are there whole or not at all, whoever else writes them.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

namespace gsd {

// Writes a file beside its place and puts it there with commit(). Until then, and for good if anything fails, what
// stood there before is untouched; nothing is left beside it. Not thread safe; any number of objects and processes may
// write to one path at once, the last commit stays.
class AtomicFile {
 public:
  // `what`: names the file in sentences, such as "record". `permissions`: as open() takes them. Throws Error(kIo) for a
  // path that is no ordinary file, or if nothing can be written beside it.
  AtomicFile(std::string path, std::string what, unsigned permissions = 0666);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  // What cannot be written is reported by commit().
  void write(std::string_view bytes);
  // For code that only writes to names: it may fill this file in the place of write().
  const std::string& scratch() const { return scratch_; }
  // Throws Error(kIo) unless every byte is on the disk and the file in its place. To be called once.
  void commit();

 private:
  [[noreturn]] void fail(int error) const;
  struct Closer {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };

  std::string path_;
  std::string what_;
  std::string scratch_;
  std::unique_ptr<std::FILE, Closer> file_;
  int error_ = 0;  // of the first write that failed
  bool committed_ = false;
};

// Held by one object at a time, over all threads and processes: for reading a file, changing it and writing it again.
// Waits until it has it; a process that ends lets go. The file at `path` is made and stays.
class FileLock {
 public:
  // Throws Error(kIo) if the file cannot be made or locked.
  explicit FileLock(const std::string& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_;
};

}  // namespace gsd
