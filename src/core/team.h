// How many threads compute a pass: all, or one alone, whichever has lately been faster for passes like it.
//
// Threads that compute a pass wait for each other a hundred times in it. Where other programs, or other guests of the
// same host, want the cores too, one of them is off its core for milliseconds at any of these points, and the others
// wait with it; one thread alone loses only its share. The number of runnable threads tells at once when that is so,
// but not for a load outside a virtual machine or container, and not how much it weighs: a program of low priority
// takes nothing. So it only divides the passes in two states, and in each the time decides.
#pragma once

#include <array>
#include <cstdint>

namespace gsd {

// One thread at a time may call its functions.
class Team {
 public:
  // Of `most` threads, >= 1, for a pass over so many tokens, >= 1, with so many free cores (FreeCores::get, -1 = not
  // known). Where that pass succeeds, ran() follows.
  int choose(int tokens, int most, int free_cores);
  // How long the pass took, in ms, > 0.
  void ran(double ms);

 private:
  enum Way : std::uint8_t { kAll, kAlone };
  struct Kind {                  // passes of similar width
    std::array<double, 2> ms{};  // of a pass, by way; 0 = not known
    double credit = 0;           // ms that may be lost by trying what seems slower
    int runs = 0;
    bool again = false;  // it was faster the last time
  };
  struct State {
    std::array<Kind, 21> kinds;
    // One thread's time over all threads', in the last kind in which both are known: a kind that is new begins with it.
    // 0 = not known: begins alone, which costs no more than the difference; the other way round, a single pass on a
    // loaded machine has taken 900 ms instead of 2.
    double ratio = 0;
    double most_loss = 8;   // of a pass, that a try is taken to cost; ratios beyond it count as this
    bool surprises = true;  // a pass that took too long is a reason to try the other way
  };
  Kind& kind();

  State unknown_, free_{{}, 1.5}, busy_{{}, 1.0 / 64, 64, false};
  State* state_ = &unknown_;
  int tokens_ = 1;
  Way way_ = kAlone;
  bool trying_ = false;
};

}  // namespace gsd
