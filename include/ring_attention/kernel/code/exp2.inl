// 2^x of every lane, for the differences of scores from their maximum. Part of the body of a target.

/// Constants of 2^x = P(x - round(x)) * 2^round(x) on [-1/2, 1/2]. P(0) = 1 exactly; the coefficients
/// minimise the largest relative error (Remez exchange).
template <class T>
struct Exp2Constants;
template <>
struct Exp2Constants<float> {  // relative error 9.1e-8 before rounding
  static constexpr float coefficients[] = {0.69314697759899204F, 0.24022242085376709F, 0.055507337434700853F,
                                           0.0096715126399564552F, 0.0013264727140072013F};
  static constexpr float rounder = 12583039.0F;  // 1.5 * 2^23 + 127: see exp2_lanes
  static constexpr float lowest = -126.0F;
  static constexpr int mantissa_bits = 23;
};
template <>
struct Exp2Constants<double> {  // relative error 3.4e-18 before rounding
  static constexpr double coefficients[] = {
      0.69314718055994532581,     0.2402265069591013126,    0.05550410866482008322,
      0.0096181291075941200544,   0.0013333558146774622444, 0.00015403530457112126818,
      0.000015252733493125507825, 1.3215435282294017211e-6, 1.0178199572718682624e-7,
      7.0737832505046935033e-9,   4.4347711601043225062e-10};
  static constexpr double rounder = 6755399441056767.0;  // 1.5 * 2^52 + 1023
  static constexpr double lowest = -1022.0;
  static constexpr int mantissa_bits = 52;
};

#if RING_ATTENTION_TARGET_AVX512
/// The same with AVX-512's instructions for it: 2^x = P(x - floor(x)) * 2^floor(x), P(0) = 1, relative
/// error 8.2e-8 on [0, 1) before rounding.
inline Lanes<float> exp2_floats(Lanes<float> lanes) {
  constexpr int down = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  const __m512 x = lanes;
  const __m512 fraction = _mm512_reduce_ps(x, down);  // 0 where x is infinite
  __m512 polynomial = _mm512_set1_ps(1.8671300698438328e-3F);
  polynomial = _mm512_fmadd_ps(polynomial, fraction, _mm512_set1_ps(9.0170303225157299e-3F));
  polynomial = _mm512_fmadd_ps(polynomial, fraction, _mm512_set1_ps(0.055799913103683922F));
  polynomial = _mm512_fmadd_ps(polynomial, fraction, _mm512_set1_ps(0.24016445015510474F));
  polynomial = _mm512_fmadd_ps(polynomial, fraction, _mm512_set1_ps(0.69315131180459999F));
  polynomial = _mm512_fmadd_ps(polynomial, fraction, _mm512_set1_ps(1.0F));
  // Not below the normal range, where multiplies may be slow; true for NaN.
  const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0F), _CMP_NLT_UQ);
  return _mm512_maskz_scalef_ps(normal, polynomial, x);
}
#endif

/// 2^x for x <= 127 (float) or 1023 (double). Results below the normal range are 0, so that -infinity gives
/// exactly 0; NaN stays NaN.
template <class T>
inline Lanes<T> exp2_lanes(Lanes<T> x) {
#if RING_ATTENTION_TARGET_AVX512
  if constexpr (std::is_same_v<T, float>) return exp2_floats(x);
#endif
  using C = Exp2Constants<T>;
  constexpr int degree = sizeof(C::coefficients) / sizeof(T);
  const Lanes<T> shifted = x + C::rounder;
  const Lanes<T> fraction = x - (shifted - C::rounder);
  Lanes<T> polynomial = broadcast<T>(C::coefficients[degree - 1]);
  RING_ATTENTION_UNROLL
  for (int i = degree - 2; i >= 0; --i) polynomial = polynomial * fraction + C::coefficients[i];
  polynomial = polynomial * fraction + T{1};
  // Adding rounder left round(x) plus the exponent's bias in the low bits, since a unit in the last place is
  // 1 there; the shift drops rounder's own bits and makes the rest the exponent of 2^round(x).
  LaneUnsigned<T> exponent;
  std::memcpy(&exponent, &shifted, sizeof exponent);
  exponent = exponent << C::mantissa_bits;
  Lanes<T> power;
  std::memcpy(&power, &exponent, sizeof power);
  // Where x is too small the power is meaningless; a comparison that NaN fails keeps NaN.
  const Lanes<T> result = polynomial * power;
  return x < C::lowest ? Lanes<T>{} : result;
}
