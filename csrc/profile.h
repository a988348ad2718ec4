// Time, bytes and operations of each kind of kernel call, counted while switched on.
#pragma once

#include <string>
#include <vector>

namespace qwick {

struct Profiled {
  std::string name;
  long calls = 0;
  double seconds = 0, bytes = 0, operations = 0;
};

void profile(bool on);             // switching on forgets what was counted before
bool profiling();
std::vector<Profiled> profiled();  // in the order in which each was first called

// Counts one call, from here to the end of the scope. `name` is asked for only while profiling.
class Timed {
 public:
  template <class Name>
  Timed(const Name& name, double bytes, double operations) {
    if (profiling()) begin(name(), bytes, operations);
  }
  ~Timed() {
    if (start_ > 0) end();
  }
  Timed(const Timed&) = delete;
  Timed& operator=(const Timed&) = delete;

 private:
  void begin(std::string name, double bytes, double operations);
  void end();

  Profiled call_;
  double start_ = 0;
};

}  // namespace qwick
