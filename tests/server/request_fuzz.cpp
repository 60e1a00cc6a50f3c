// libFuzzer target: whatever a client sends, the request parser accepts it or throws ApiError. The first byte chooses
// the endpoint. How to run it: CONTRIBUTING.md, "Fuzzing".
#include <cstdlib>

#include "../../src/server/json_schema.h"
#include "../../src/server/messages.h"
#include "../../src/server/request.h"
#include "../../src/server/responses.h"

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  using namespace gsd::server;
  if (size == 0) return 0;
  const std::string_view body(reinterpret_cast<const char*>(data + 1), size - 1);
  try {
    switch (data[0]) {
      case 'c': {
        const CompletionRequest r = parse_chat(body, {});
        if (r.conversation.chat.messages.empty() || r.n < 1 || r.n > kMaxChoices) std::abort();
        break;
      }
      case 'p': {
        const CompletionRequest r = parse_completion(body, {});
        if (r.prompts.empty() || r.n < 1 || r.n > kMaxChoices) std::abort();
        break;
      }
      case 'r': {
        ResponseStore store;
        store.put("resp_1", {R"([{"role": "user", "content": "a"}])",
                             R"({"output": [{"id": "msg_1_0", "role": "user", "content": "b"}]})"});
        read_chat(read_response(parse_object(body), store).chat, {});
        break;
      }
      case 'm':
        read_chat(messages_to_chat(parse_object(body)), {});
        break;
      case 't':
        parse_tokenize(body);
        break;
      case 'd':
        parse_detokenize(body);
        break;
      default:
        parse_conversation(body, {});
    }
  } catch (const ApiError& e) {
    const bool unknown = data[0] == 'r' && e.status() == 404;
    if ((e.status() != 400 && !unknown) || *e.what() == '\0') std::abort();
  }
  return 0;
}
