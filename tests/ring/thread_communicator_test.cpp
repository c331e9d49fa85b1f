// suites: compilers
// unit: others
// Messages and gatherings between threads.
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <optional>
#include <ring_attention/ring/thread_communicator.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/error_text.hpp"
#include "support/random.hpp"
#include "support/threads.hpp"

namespace {

namespace ra = ring_attention;
using namespace std::chrono_literals;

static_assert(ra::RingCommunicator<ra::ThreadCommunicator>);
static_assert(ra::RingCommunicator<ra::AloneCommunicator>);

std::span<const std::byte> bytes(const int& value) { return std::as_bytes(std::span(&value, 1)); }
std::span<std::byte> room(int& value) { return std::as_writable_bytes(std::span(&value, 1)); }

/// The text of the exception of the given type that a call throws.
template <class Exception, class Call>
std::string text_of(const Call& call) {
  try {
    call();
  } catch (const Exception& error) {
    return error.what();
  }
  return "no exception";
}

}  // namespace

TEST_CASE("thread communicator: messages meet by tag, and by order within a tag", "[ring][communicator]") {
  ra::ThreadRing ring(2);
  ra::ThreadCommunicator from(ring, 0), to(ring, 1);
  const int sent[]{10, 11, 20, 21};
  int received[4]{};
  SECTION("sends first") {
    auto a = from.send(1, 1, bytes(sent[0]));
    auto b = from.send(1, 1, bytes(sent[1]));
    auto c = from.send(1, 2, bytes(sent[2]));
    auto d = from.send(1, 2, bytes(sent[3]));
    auto z = to.receive(0, 2, room(received[2]));
    auto y = to.receive(0, 1, room(received[0]));
    auto x = to.receive(0, 2, room(received[3]));
    auto w = to.receive(0, 1, room(received[1]));
    for (auto* request : {&a, &b, &c, &d}) from.wait(*request);
    for (auto* request : {&w, &x, &y, &z}) to.wait(*request);
  }
  SECTION("receives first") {
    auto z = to.receive(0, 2, room(received[2]));
    auto y = to.receive(0, 1, room(received[0]));
    auto x = to.receive(0, 2, room(received[3]));
    auto w = to.receive(0, 1, room(received[1]));
    auto a = from.send(1, 1, bytes(sent[0]));
    auto c = from.send(1, 2, bytes(sent[2]));
    auto b = from.send(1, 1, bytes(sent[1]));
    auto d = from.send(1, 2, bytes(sent[3]));
    for (auto* request : {&w, &x, &y, &z}) to.wait(*request);
    for (auto* request : {&d, &c, &b, &a}) from.wait(*request);
  }
  CHECK(std::equal(sent, sent + 4, received));
}

TEST_CASE("thread communicator: directions do not mix", "[ring][communicator]") {
  ra::ThreadRing ring(3);
  ra::ThreadCommunicator a(ring, 0), b(ring, 1), c(ring, 2);
  const int from_a = 1, from_b = 2, from_c = 3;
  int at_a = 0, at_b = 0, at_c = 0;
  auto ra_ = a.receive(1, 0, room(at_a));
  auto rb = b.receive(2, 0, room(at_b));
  auto rc = c.receive(0, 0, room(at_c));
  auto sa = a.send(2, 0, bytes(from_a));
  auto sb = b.send(0, 0, bytes(from_b));
  auto sc = c.send(1, 0, bytes(from_c));
  a.wait(ra_), b.wait(rb), c.wait(rc), a.wait(sa), b.wait(sb), c.wait(sc);
  CHECK(at_a == from_b);
  CHECK(at_b == from_c);
  CHECK(at_c == from_a);
}

TEST_CASE("thread communicator: empty messages take part in the order", "[ring][communicator]") {
  ra::ThreadRing ring(2);
  ra::ThreadCommunicator from(ring, 0), to(ring, 1);
  const int value = 7;
  int received = 0;
  auto empty = from.send(1, 0, {});
  auto full = from.send(1, 0, bytes(value));
  auto first = to.receive(0, 0, {});
  auto second = to.receive(0, 0, room(received));
  to.wait(first), to.wait(second), from.wait(empty), from.wait(full);
  CHECK(received == value);
  from.wait(full);  // a request that is done may be waited for again
}

TEST_CASE("thread communicator: a message that does not fit its buffer is an error", "[ring][communicator]") {
  ra::ThreadRing ring(2);
  ra::ThreadCommunicator from(ring, 0), to(ring, 1);
  const int value[2]{};
  int received = 0;
  auto sending = from.send(1, 0, std::as_bytes(std::span(value)));
  CHECK(text_of<std::logic_error>([&] { (void)to.receive(0, 0, room(received)); }) ==
        "a message of 8 bytes meets a buffer of 4");
}

TEST_CASE("thread communicator: a request that is destroyed no longer takes part", "[ring][communicator]") {
  ra::ThreadRing ring(2);
  ra::ThreadCommunicator from(ring, 0), to(ring, 1);
  const int dropped = 1, kept = 2;
  int received = 0, untouched = 5;
  { auto cancelled = from.send(1, 0, bytes(dropped)); }
  auto sending = from.send(1, 0, bytes(kept));
  auto receiving = to.receive(0, 0, room(received));
  to.wait(receiving);
  CHECK(received == kept);
  {
    auto cancelled = to.receive(0, 0, room(untouched));
    auto moved = std::move(cancelled);
    moved = to.receive(0, 1, room(untouched));
  }
  auto again = from.send(1, 0, bytes(kept));
  int later = 0;
  auto last = to.receive(0, 0, room(later));
  to.wait(last), from.wait(again), from.wait(sending);
  CHECK(later == kept);
  CHECK(untouched == 5);
}

TEST_CASE("thread communicator: all_gather of unequal sizes, many times", "[ring][communicator]") {
  for (const int members : {1, 2, 5, 8}) {
    ra::ThreadRing ring(members);
    std::vector<int> wrong(static_cast<std::size_t>(members));
    test::run_together(members, [&](int rank) {
      ra::ThreadCommunicator communicator(ring, rank);
      for (int round = 0; round < 200; ++round) {
        const auto size = [&](int of) { return static_cast<std::size_t>((of * 7 + round) % 5); };
        const std::vector<std::byte> mine(size(rank), static_cast<std::byte>(rank + round));
        const auto all = communicator.all_gather(mine);
        bool right = all.size() == static_cast<std::size_t>(members);
        for (int of = 0; right && of < members; ++of) {
          right = all[static_cast<std::size_t>(of)] ==
                  std::vector<std::byte>(size(of), static_cast<std::byte>(of + round));
        }
        if (!right) ++wrong[static_cast<std::size_t>(rank)];
      }
    });
    CHECK(wrong == std::vector<int>(static_cast<std::size_t>(members)));
  }
}

TEST_CASE("thread communicator: a rank gathers on through another communicator", "[ring][communicator]") {
  ra::ThreadRing ring(3, {.timeout = 30s});
  std::vector<int> wrong(3);
  for (int life = 0; life < 3; ++life) {
    test::run_together(3, [&](int rank) {
      ra::ThreadCommunicator communicator(ring, rank);
      for (int round = 0; round < 2; ++round) {
        const int mine = 100 * life + 10 * round + rank;
        const auto all = communicator.all_gather(bytes(mine));
        for (int of = 0; of < 3; ++of) {
          int theirs = -1;
          std::memcpy(&theirs, all.at(static_cast<std::size_t>(of)).data(), sizeof theirs);
          if (theirs != mine - rank + of) ++wrong[static_cast<std::size_t>(rank)];
        }
      }
    });
  }
  CHECK(wrong == std::vector<int>(3));
}

TEST_CASE("thread communicator: many rounds of messages of every size between all pairs",
          "[ring][communicator]") {
  constexpr int members = 4;
  constexpr int rounds = 300;
  ra::ThreadRing ring(members);
  std::vector<int> wrong(members);
  test::run_together(members, [&](int rank) {
    ra::ThreadCommunicator communicator(ring, rank);
    const auto size = [](int from, int to, int round) {
      return static_cast<std::size_t>((from * 31 + to * 17 + round * 101) % 3000);
    };
    const auto first = [](int from, int to, int round) {
      return static_cast<std::uint64_t>(from * 1'000'000 + to * 100'000 + round);
    };
    for (int round = 0; round < rounds; ++round) {
      std::vector<std::vector<std::uint64_t>> sent(members), received(members);
      std::vector<ra::ThreadCommunicator::Request> requests;
      for (int step = 1; step < members; ++step) {
        const int to = (rank + step) % members, from = (rank - step + members) % members;
        auto& out = sent[static_cast<std::size_t>(to)];
        auto& in = received[static_cast<std::size_t>(from)];
        out.resize(size(rank, to, round));
        std::iota(out.begin(), out.end(), first(rank, to, round));
        in.resize(size(from, rank, round));
        requests.push_back(communicator.receive(from, round % 3, std::as_writable_bytes(std::span(in))));
        requests.push_back(communicator.send(to, round % 3, std::as_bytes(std::span(out))));
      }
      for (auto& request : requests) communicator.wait(request);
      for (int from = 0; from < members; ++from) {
        std::uint64_t expected = first(from, rank, round);
        for (const std::uint64_t value : received[static_cast<std::size_t>(from)]) {
          if (value != expected++) ++wrong[static_cast<std::size_t>(rank)];
        }
      }
    }
  });
  CHECK(wrong == std::vector<int>(members));
}

TEST_CASE("thread communicator: a peer that does not answer is lost after the timeout",
          "[ring][communicator]") {
  ra::ThreadRing ring(2, {.timeout = 50ms});
  ra::ThreadCommunicator communicator(ring, 0);
  const int value = 1;
  const auto start = std::chrono::steady_clock::now();
  CHECK(text_of<ra::PeerLost>([&] {
          auto sending = communicator.send(1, 0, bytes(value));
          communicator.wait(sending);
        }) == "ring member 0 waited 50 ms for member 1");
  CHECK(text_of<ra::PeerLost>([&] { (void)communicator.all_gather(bytes(value)); }) ==
        "ring member 0 waited 50 ms for the other members");
  const auto waited = std::chrono::steady_clock::now() - start;
  CHECK(waited >= 100ms);
  CHECK(waited < 30s);
}

TEST_CASE("thread communicator: a failure reaches every member, also one that is waiting",
          "[ring][communicator]") {
  ra::ThreadRing ring(4);
  CHECK(ring.failed_rank() == -1);
  std::vector<std::string> texts(4);
  const auto start = std::chrono::steady_clock::now();
  test::run_together(4, [&](int rank) {
    ra::ThreadCommunicator communicator(ring, rank);
    int value = 0;
    texts[static_cast<std::size_t>(rank)] = text_of<ra::MemberFailed>([&] {
      if (rank == 0) {
        auto receiving = communicator.receive(2, 0, room(value));
        communicator.wait(receiving);
      } else if (rank == 1) {
        (void)communicator.all_gather({});
      } else if (rank == 2) {
        std::this_thread::sleep_for(20ms);
        communicator.fail("out of paper");
        communicator.fail("a later reason");
        auto receiving = communicator.receive(0, 1, room(value));  // whoever failed cannot go on either
        communicator.wait(receiving);
      } else {
        test::eventually([&] { return ring.failed_rank() >= 0; });
        (void)communicator.send(2, 0, bytes(value));
      }
    });
  });
  CHECK(std::chrono::steady_clock::now() - start < 30s);
  CHECK(ring.failed_rank() == 2);
  CHECK(texts == std::vector<std::string>(4, "ring member 2 failed: out of paper"));
  ra::ThreadCommunicator failed(ring, 2);
  CHECK_THROWS_AS(failed.all_gather({}), ra::MemberFailed);
}

TEST_CASE("thread communicator: ranks and sizes are checked", "[ring][communicator]") {
  CHECK(test::error_text([] { ra::ThreadRing ring(0); }) == "ring size = 0: must be positive");
  CHECK(test::error_text([] { ra::ThreadRing ring(2, {.timeout = -1ms}); }) ==
        "timeout = -1 ms: must not be negative");
  ra::ThreadRing ring(2);
  CHECK(test::error_text([&] { ra::ThreadCommunicator(ring, 2); }) == "rank = 2: must lie in [0, 2)");
  CHECK(test::error_text([&] { ra::ThreadCommunicator(ring, -1); }) == "rank = -1: must lie in [0, 2)");
  ra::ThreadCommunicator member(ring, 0);
  int value = 3;
  CHECK(test::error_text([&] { (void)member.send(2, 0, bytes(value)); }) == "peer = 2: must lie in [0, 2)");
  CHECK(test::error_text([&] { (void)member.receive(-1, 0, room(value)); }) ==
        "peer = -1: must lie in [0, 2)");
}

TEST_CASE("a ring of one gathers its own bytes and has no peer", "[ring][communicator]") {
  ra::AloneCommunicator alone;
  const int value = 3;
  int received = 0;
  CHECK(alone.rank() == 0);
  CHECK(alone.size() == 1);
  const auto all = alone.all_gather(bytes(value));
  REQUIRE(all.size() == 1);
  CHECK(all[0].size() == sizeof value);
  CHECK_THROWS_AS(alone.send(1, 0, bytes(value)), std::logic_error);
  CHECK_THROWS_AS(alone.receive(1, 0, room(received)), std::logic_error);
}
