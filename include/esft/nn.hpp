// SPDX-License-Identifier: Apache-2.0
#pragma once
/// @file
/// Umbrella of nn/: layers with explicit forward and backward.

#include <esft/nn/attention.hpp>
#include <esft/nn/attention_sink.hpp>
#include <esft/nn/bias.hpp>
#include <esft/nn/buffer.hpp>
#include <esft/nn/columns.hpp>
#include <esft/nn/cross_entropy.hpp>
#include <esft/nn/latent_attention.hpp>
#include <esft/nn/linear.hpp>
#include <esft/nn/low_rank.hpp>
#include <esft/nn/rms_norm.hpp>
#include <esft/nn/rotary.hpp>
#include <esft/nn/sequence.hpp>
#include <esft/nn/swiglu.hpp>
#include <esft/nn/weight.hpp>
