// The core of the library. Optional parts are included by name.
#pragma once

/// \namespace ring_attention
/// Everything that the library offers. Names of the nested namespaces `detail` and `engine` are its own and
/// may change with every version.

#include <ring_attention/requirements.hpp>
// First, because an older compiler may lack headers that others include.
#include <ring_attention/attention/block_sparse_ring_dilated_attention.hpp>
#include <ring_attention/attention/block_sparse_ring_distributed_dilated_attention.hpp>
#include <ring_attention/attention/production_options.hpp>
#include <ring_attention/attention/ring_dilated_attention_production.hpp>
#include <ring_attention/attention/ring_dilated_attention_v2.hpp>
#include <ring_attention/attention/ring_distributed_dilated_attention.hpp>
#include <ring_attention/attention/true_ring_dilated_attention.hpp>
#include <ring_attention/block_probabilities.hpp>
#include <ring_attention/config.hpp>
#include <ring_attention/cuda_views.hpp>
#include <ring_attention/kernel/choice.hpp>
#include <ring_attention/num_threads.hpp>
#include <ring_attention/options.hpp>
#include <ring_attention/pattern/block_sparse_config.hpp>
#include <ring_attention/pattern/cache_policy.hpp>
#include <ring_attention/pattern/dilated_indices.hpp>
#include <ring_attention/pattern/global_cache.hpp>
#include <ring_attention/pattern/pattern_cache.hpp>
#include <ring_attention/pattern/pattern_store.hpp>
#include <ring_attention/scalar.hpp>
#include <ring_attention/tensor.hpp>
#include <ring_attention/version.hpp>
#include <ring_attention/workspace.hpp>
