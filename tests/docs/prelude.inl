// What fragments of the pages use without declaring it. It stands at the beginning of a function; the
// fragment follows in a block of its own, and may declare the same names anew.
namespace ra = ring_attention;

ra::AttentionConfig config = ra::ring_preset();
config.segment_lengths = {16, 32};
config.dilation_rates = {1, 2};

constexpr std::int64_t total_sequence_length = 64;
ra::Tensor<float> q(1, total_sequence_length, 4, 8), k(q.shape()), v(q.shape()), grad_out(q.shape());
for (std::int64_t i = 0; i < q.size(); ++i) {
  q.data()[i] = 0.01F * static_cast<float>(i % 89);
  k.data()[i] = 0.01F * static_cast<float>(i % 97);
  v.data()[i] = 0.01F * static_cast<float>(i % 101);
  grad_out.data()[i] = 0.01F * static_cast<float>(i % 103);
}
ra::Tensor<float> out(q.shape()), lse(1, 4, total_sequence_length, 1);
ra::Tensor<float> grad_q(q.shape()), grad_k(q.shape()), grad_v(q.shape());
// A ring of one rank holds everything.
const ra::Tensor<float>& q_shard = q;
const ra::Tensor<float>& k_shard = k;
const ra::Tensor<float>& v_shard = v;

const ra::RingDilatedAttentionV2<float> attention(config);
const auto log = [](const std::string& text) { std::printf("%s\n", text.c_str()); };
