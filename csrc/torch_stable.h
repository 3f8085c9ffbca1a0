// torch's stable ABI. Every file that talks to torch includes this first. It names the oldest torch that the file runs
// on, which makes any header outside the stable ABI a compile error. Python validates arguments; CHECK_SIZE is a seat
// belt.
#pragma once

#define TORCH_TARGET_VERSION 0x020b000000000000  // 2.11

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#ifndef STABLE_TORCH_ERROR_CODE_CHECK  // torch 2.11 has it by another name, without the reason
#define STABLE_TORCH_ERROR_CODE_CHECK TORCH_ERROR_CODE_CHECK
#endif

#define CHECK_SIZE(what, got, expected) \
  STD_TORCH_CHECK((got) == (expected), what, " is ", (got), ", expected ", (expected))
