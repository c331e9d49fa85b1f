// An Ethernet switch between network namespaces that delays and loses frames, for kernels that cannot
// (sch_netem is often left out). usage: network_switch LATENCY_US JITTER_US LOSS_PERCENT NAMESPACE...: times
// of one way, and the file of each namespace, which has a TAP device "lan". SIGTERM ends it and makes it tell
// what it carried.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Address = std::array<unsigned char, 6>;

volatile std::sig_atomic_t ended = 0;

[[noreturn]] void throw_system_error(const std::string& what) {
  throw std::runtime_error(what + ": " + std::strerror(errno));
}

struct Frame {
  Clock::time_point due;
  std::vector<unsigned char> bytes;
};

struct Port {
  int device;
  std::deque<Frame> queue;  // on their way to the device, in order, as in a cable
};

int open_device(const std::string& network_namespace) {
  const int name = open(network_namespace.c_str(), O_RDONLY | O_CLOEXEC);
  if (name < 0 || setns(name, CLONE_NEWNET) != 0) throw_system_error(network_namespace);
  close(name);
  const int device = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (device < 0) throw_system_error("/dev/net/tun");
  ifreq request{};
  std::strcpy(request.ifr_name, "lan");
  request.ifr_flags = IFF_TAP | IFF_NO_PI;
  if (ioctl(device, TUNSETIFF, &request) != 0) throw_system_error(network_namespace + ", lan");
  return device;
}

class Switch {
 public:
  Switch(std::chrono::microseconds latency, std::chrono::microseconds jitter, double loss)
      : latency_(latency), jitter_(0, static_cast<double>(jitter.count())), lost_(loss) {}

  void add(int device) { ports_.push_back({device, {}}); }

  void run() {
    std::vector<pollfd> events;
    for (const Port& port : ports_) events.push_back({port.device, POLLIN, 0});
    sigset_t unblocked;
    sigemptyset(&unblocked);
    while (ended == 0) {
      const timespec wait = until_next_frame();
      if (ppoll(events.data(), events.size(), &wait, &unblocked) < 0 && errno != EINTR) {
        throw_system_error("ppoll");
      }
      for (std::size_t from = 0; from < ports_.size(); ++from) take_frames(from);
      for (Port& port : ports_) deliver(port);
    }
    std::printf("%lld frames carried, %lld lost\n", carried_, dropped_);
  }

 private:
  timespec until_next_frame() const {
    std::chrono::nanoseconds wait = std::chrono::seconds(1);
    for (const Port& port : ports_) {
      if (!port.queue.empty()) {
        wait = std::min<std::chrono::nanoseconds>(wait, port.queue.front().due - Clock::now());
      }
    }
    wait = std::max(wait, std::chrono::nanoseconds(0));
    return {wait.count() / 1'000'000'000, wait.count() % 1'000'000'000};
  }

  void take_frames(std::size_t from) {
    std::array<unsigned char, 65536> buffer;
    // Bounded, so that a port that floods does not keep frames of the others waiting.
    for (int frames = 0; frames < 64; ++frames) {
      const ssize_t size = read(ports_[from].device, buffer.data(), buffer.size());
      if (size < 14) return;  // none, or the device is down
      Address target, source;
      std::copy_n(buffer.begin(), 6, target.begin());
      std::copy_n(buffer.begin() + 6, 6, source.begin());
      port_of_[source] = from;
      const auto known = port_of_.find(target);
      for (std::size_t to = 0; to < ports_.size(); ++to) {
        if (to == from || (known != port_of_.end() && to != known->second)) continue;
        send(ports_[to], {buffer.begin(), buffer.begin() + size});
      }
    }
  }

  void send(Port& port, std::vector<unsigned char> bytes) {
    if (lost_(random_)) {
      ++dropped_;
      return;
    }
    ++carried_;
    const auto jitter = std::chrono::microseconds(static_cast<long>(jitter_(random_)));
    Clock::time_point due = Clock::now() + latency_ + jitter;
    if (!port.queue.empty()) due = std::max(due, port.queue.back().due);
    port.queue.push_back({due, std::move(bytes)});
  }

  static void deliver(Port& port) {
    while (!port.queue.empty() && port.queue.front().due <= Clock::now()) {
      const std::vector<unsigned char>& bytes = port.queue.front().bytes;
      // A device that is down takes none: those are lost as on a cable that is cut.
      [[maybe_unused]] const ssize_t written = write(port.device, bytes.data(), bytes.size());
      port.queue.pop_front();
    }
  }

  std::chrono::microseconds latency_;
  std::uniform_real_distribution<double> jitter_;
  std::bernoulli_distribution lost_;
  std::mt19937_64 random_{20260101};
  std::vector<Port> ports_;
  std::map<Address, std::size_t> port_of_;
  long long carried_ = 0, dropped_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 5) {
    std::fputs("usage: network_switch LATENCY_US JITTER_US LOSS_PERCENT NAMESPACE...\n", stderr);
    return 2;
  }
  try {
    // Only while ppoll waits, so that none comes between the test of `ended` and the wait.
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, nullptr);
    std::signal(SIGTERM, [](int) { ended = 1; });
    Switch network(std::chrono::microseconds(std::stol(argv[1])),
                   std::chrono::microseconds(std::stol(argv[2])), std::stod(argv[3]) / 100);
    const int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    for (int i = 4; i < argc; ++i) network.add(open_device(argv[i]));
    // A process in a host's namespace would count as one of its own.
    if (home < 0 || setns(home, CLONE_NEWNET) != 0) throw_system_error("/proc/self/ns/net");
    network.run();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "network_switch: %s\n", error.what());
    return 1;
  }
}
