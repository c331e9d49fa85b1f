// Reading and writing safetensors files (https://github.com/huggingface/safetensors), checked as its
// reference implementation checks them.
#pragma once

#include "safetensors_mapping.hpp"
#include "safetensors_reader.hpp"
#include "safetensors_writer.hpp"
