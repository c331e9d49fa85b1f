// A ring member's backward pass: keys travel as in forward, and their gradients travel back to the owner in
// the accumulator type.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <ring_attention/cpu/backward_arguments.hpp>
#include <ring_attention/cpu/backward_pass.hpp>
#include <ring_attention/cpu/backward_rows.hpp>
#include <ring_attention/cpu/backward_units.hpp>
#include <ring_attention/cpu/key_exchange.hpp>
#include <ring_attention/cpu/workspace.hpp>
#include <ring_attention/gradient_views.hpp>
#include <ring_attention/kernel/tile_kernel.hpp>
#include <ring_attention/parallel.hpp>
#include <ring_attention/plan/transfer.hpp>
#include <ring_attention/ring/messages.hpp>
#include <vector>

namespace ring_attention {
inline namespace RING_ATTENTION_CODE_NAMESPACE {
namespace engine {

template <class Scalar, class Communicator>
class RingBackward {
  using T = accumulator_t<Scalar>;
  using Messages = detail::messages_over<Communicator>;
  using Place = detail::message_place<Communicator>;

 public:
  RingBackward(const RingPlace& place, Communicator& communicator,
               const detail::BackwardTensors<Scalar>& tensors, const TileKernel<Scalar>& kernel)
      : place_(place),
        plan_(*place.plan),
        kernel_(kernel),
        communicator_(communicator),
        messages_(communicator),
        tensors_(tensors),
        queries_{tensors.q, tensors.grad_out, tensors.lse},
        mine_(place.tokens(communicator.size(), communicator.rank())) {
    detail::Carver count;
    BackwardWorkspace<Scalar>(count, kernel_, sizes_, plan_.shape);
    workspace_bytes_ = count.used();
    workspace_.reserve(workspace_bytes_ * static_cast<std::size_t>(place.threads));
  }

  /// Collective. Writes the gradients of the member's own rows; returns the payload sent, in bytes.
  std::uint64_t run(const GradientViews<Scalar>& grads) {
    compute_deltas();
    const CallShape& shape = plan_.shape;
    grad_q_ = Tensor<T>(shape.batch, mine_.size(), shape.heads, shape.head_dim);
    grad_k_ = Tensor<T>(shape.batch, mine_.size(), shape.kv_heads, shape.head_dim);
    grad_v_ = Tensor<T>(shape.batch, mine_.size(), shape.kv_heads, shape.head_dim);
    accumulate_gradients();
    for (const detail::TokenRun& run : mine_.runs) {
      round_gradients<Scalar, T>(kernel_, grad_q_.view(), 0, run, grads.q, place_.threads);
      round_gradients<Scalar, T>(kernel_, grad_k_.view(), 0, run, grads.k, place_.threads);
      round_gradients<Scalar, T>(kernel_, grad_v_.view(), 0, run, grads.v, place_.threads);
    }
    return bytes_sent_;
  }

 private:
  /// Gradients of the rows of one message on their way home.
  struct Returning {
    detail::Transfer transfer;  // rows of this member that come home
    typename Place::Incoming arriving;
    typename Place::Outgoing leaving;
  };

  RowNumbers<T> numbers(Tensor<T>& storage, std::size_t branches) const {
    const CallShape& shape = plan_.shape;
    storage = Tensor<T>(static_cast<std::int64_t>(branches), shape.batch, shape.heads, mine_.size());
    return {storage.data(), shape.heads, mine_.size(),
            branches > 1 ? shape.batch * shape.heads * mine_.size() : std::int64_t{0}};
  }

  void compute_deltas() {
    const std::size_t branches = plan_.detached_mix ? plan_.branch_count() : 1;
    delta_ = numbers(delta_storage_, branches);
    if (!plan_.detached_mix) {
      for (const detail::TokenRun& run : mine_.runs) {
        row_deltas(plan_, kernel_, run, queries_, tensors_.out, tensors_.grad_lse, delta_, place_.threads);
      }
      return;
    }
    // The deltas of the branches need all keys before the first gradient: one more round.
    Tensor<T> probability_storage, weighted_storage;
    BackwardTargets<T> targets;
    targets.probability = numbers(probability_storage, branches);
    targets.weighted = numbers(weighted_storage, branches);
    for (const detail::TokenRun& run : mine_.runs)
      seed_mix_statistics(plan_, run, queries_, targets.probability);
    bytes_sent_ += exchange_keys<look_ahead, Scalar>(
        place_, communicator_, 1, tensors_.k, tensors_.v,
        [&](int step, const detail::Transfer& in, const KeyMessage<Scalar>& message,
            const detail::Transfer&) {
          for (std::size_t branch = 0; branch < branches; ++branch) {
            run_units(backward_units(plan_, branch, BackwardSide::queries, place_.threads), targets, step, in,
                      message, nullptr);
          }
        });
    for (const detail::TokenRun& run : mine_.runs) {
      branch_deltas<T>(plan_, run, targets.probability, targets.weighted, tensors_.grad_lse, delta_,
                       place_.threads);
    }
  }

  void accumulate_gradients() {
    std::array<Returning, 2> returning;
    bytes_sent_ += exchange_keys<backward_look_ahead, Scalar>(
        place_, communicator_, 0, tensors_.k, tensors_.v,
        [&](int step, const detail::Transfer& in, const KeyMessage<Scalar>& message,
            const detail::Transfer& out) {
          Returning& home = returning[static_cast<std::size_t>(step % 2)];
          finish(home);  // of step - 2, so that gradients are added in the order of the steps
          T* leaving = nullptr;
          if (in.rows() > 0) {
            messages_.prepare(home.leaving, sender(step), 2, gradient_bytes(in));
            leaving = elements<T>(home.leaving.bytes());
            std::fill_n(leaving, 2 * in.rows() * plan_.shape.head_dim, T{0});
          }
          for (std::size_t branch = 0; branch < plan_.branch_count(); ++branch) {
            accumulate_branch(branch, step, in, message, leaving);
          }
          if (step > 0) start(home, step, in, out);
        });
    for (int step = (std::max)(1, communicator_.size() - 2); step < communicator_.size(); ++step) {
      finish(returning[static_cast<std::size_t>(step % 2)]);
    }
  }

  void accumulate_branch(std::size_t branch, int step, const detail::Transfer& in,
                         const KeyMessage<Scalar>& message, T* leaving) {
    BackwardTargets<T> targets;
    auto units = backward_units(plan_, branch, BackwardSide::both, place_.threads);
    const bool too_few = place_.threads > 1 && static_cast<std::int64_t>(units.size()) < 2 * place_.threads;
    if (too_few) units = backward_units(plan_, branch, BackwardSide::keys, place_.threads);
    targets.grad_keys = true;
    if (!too_few) targets.grad_q = grad_q_;
    run_units(units, targets, step, in, message, leaving);
    if (!too_few) return;
    targets.grad_keys = false;
    targets.grad_q = grad_q_;
    run_units(backward_units(plan_, branch, BackwardSide::queries, place_.threads), targets, step, in,
              message, leaving);
  }

  /// Who owns the keys of a step.
  int sender(int step) const {
    return member_after(communicator_.rank(), -distance_of_step(step, communicator_.size()),
                        communicator_.size());
  }
  std::size_t gradient_bytes(const detail::Transfer& transfer) const {
    return static_cast<std::size_t>(2 * transfer.rows() * plan_.shape.head_dim) * sizeof(T);
  }

  void start(Returning& home, int step, const detail::Transfer& in, const detail::Transfer& out) {
    const int to = member_after(communicator_.rank(), distance_of_step(step, communicator_.size()),
                                communicator_.size());
    home.transfer = out;
    if (out.rows() > 0) messages_.expect(home.arriving, to, 2, gradient_bytes(out));
    if (in.rows() > 0) {
      messages_.send(home.leaving);
      bytes_sent_ += gradient_bytes(in);
    }
  }

  void finish(Returning& home) {
    messages_.wait(home.arriving);
    add_gradients(home.transfer, elements<T>(home.arriving.bytes()));
    messages_.release(home.arriving);
    home.transfer = detail::Transfer();
    messages_.wait(home.leaving);
  }

  void add_gradients(const detail::Transfer& transfer, const T* keys) {
    const std::int64_t head_dim = plan_.shape.head_dim;
    const T* values = keys + transfer.rows() * head_dim;
    for (const detail::TransferPiece& piece : transfer.pieces()) {
      for (std::int64_t i = 0; i < piece.tokens.count; ++i) {
        const std::int64_t row = piece.tokens[i] + piece.number_shift;
        kernel_.add_row(keys, T{1}, head_dim, grad_k_.view().row(piece.item, row, piece.kv_head));
        kernel_.add_row(values, T{1}, head_dim, grad_v_.view().row(piece.item, row, piece.kv_head));
        keys += head_dim;
        values += head_dim;
      }
    }
  }

  void run_units(const std::vector<BackwardUnit>& units, const BackwardTargets<T>& targets, int step,
                 const detail::Transfer& in, const KeyMessage<Scalar>& message, T* leaving) {
    if (step > 0 && in.rows() == 0) return;
    const BackwardPass<Scalar> pass(plan_, kernel_, queries_, delta_, sizes_);
    std::byte* const memory = workspace_.reserve(0);
    detail::parallel_for(
        static_cast<std::int64_t>(units.size()), place_.threads, [&](std::int64_t index, int worker) {
          detail::Carver carver(memory + workspace_bytes_ * static_cast<std::size_t>(worker));
          BackwardWorkspace<Scalar> work(carver, kernel_, sizes_, plan_.shape);
          const BackwardUnit& unit = units[static_cast<std::size_t>(index)];
          for (const detail::TokenRun& run : mine_.runs) {
            if (step == 0) {
              pass.run(unit, run, targets, work, OwnKeys{*this});
            } else {
              pass.run(unit, run, targets, work, ReceivedKeys{*this, in, message, leaving});
            }
          }
          if (worker == 0) detail::make_progress(communicator_);  // the caller's own thread
        });
  }

  /// The member's own keys, and the rows that their gradients are added to.
  struct OwnKeys {
    const RingBackward& member;

    class Pieces {
     public:
      Pieces(const RingBackward& member, const BackwardUnit& unit, const detail::Meeting& meeting)
          : member_(member),
            unit_(unit),
            pieces_(member.tensors_.k, member.tensors_.v, meeting.segment, unit.item, unit.kv_head,
                    MemberRuns(member.mine_), unit.key_begin, unit.key_end) {}

      bool next(GradientPiece<Scalar>& piece) {
        if (!pieces_.next(piece.piece)) return false;
        if (member_.grad_k_.size() > 0) {
          piece.grad_keys = own_rows(member_.grad_k_, piece.piece.tokens);
          piece.grad_values = own_rows(member_.grad_v_, piece.piece.tokens);
        }
        return true;
      }

     private:
      Rows<T> own_rows(const Tensor<T>& grads, const Progression& tokens) const {
        // The sums are the member's to change, whoever holds the pass.
        const TensorView<T> view(const_cast<T*>(grads.data()), grads.shape());
        return rows_of(view, tokens, pieces_.run().number_shift, unit_.item, unit_.kv_head);
      }

      const RingBackward& member_;
      const BackwardUnit& unit_;
      LocalPieces<Scalar, MemberRuns> pieces_;
    };
    Pieces pieces(const BackwardUnit& unit, const detail::Meeting& meeting) const {
      return {member, unit, meeting};
    }
  };

  /// The keys of a message, and the rows of the message in which their gradients go home.
  struct ReceivedKeys {
    const RingBackward& member;
    const detail::Transfer& in;
    const KeyMessage<Scalar>& message;
    T* leaving;  // null: no gradients of keys

    class Pieces {
     public:
      Pieces(const ReceivedKeys& keys, const BackwardUnit& unit, const detail::Meeting& meeting)
          : keys_(keys),
            unit_(unit),
            pieces_(keys.in, unit.item, meeting.branch, unit.kv_head, meeting.offset, meeting.segment) {}

      bool next(GradientPiece<Scalar>& piece) {
        detail::TransferPiece at;
        if (!pieces_.next(at)) return false;
        const std::int64_t head_dim = keys_.member.plan_.shape.head_dim;
        const std::int64_t first = at.tokens.count_below(unit_.key_begin);
        const std::int64_t last = (std::max)(first, at.tokens.count_below(unit_.key_end));
        piece.piece = keys_.message.piece(keys_.in, at, head_dim).sub(first, last);
        if (keys_.leaving != nullptr) {
          T* const row = keys_.leaving + (at.first_row + first) * head_dim;
          piece.grad_keys = {row, head_dim};
          piece.grad_values = {row + keys_.in.rows() * head_dim, head_dim};
        }
        return true;
      }

     private:
      const ReceivedKeys& keys_;
      const BackwardUnit& unit_;
      detail::Transfer::Pieces pieces_;
    };
    Pieces pieces(const BackwardUnit& unit, const detail::Meeting& meeting) const {
      return {*this, unit, meeting};
    }
  };

  RingPlace place_;
  const AttentionPlan& plan_;
  const TileKernel<Scalar>& kernel_;
  Communicator& communicator_;
  Messages messages_;
  const detail::BackwardTensors<Scalar>& tensors_;
  BackwardQueries<Scalar> queries_;
  detail::MemberTokens mine_;
  BackwardSizes sizes_;
  detail::Block workspace_;
  std::size_t workspace_bytes_ = 0;
  Tensor<T> delta_storage_, grad_q_, grad_k_, grad_v_;
  RowNumbers<T> delta_;
  std::uint64_t bytes_sent_ = 0;
};

}  // namespace engine
}  // namespace RING_ATTENTION_CODE_NAMESPACE
}  // namespace ring_attention
