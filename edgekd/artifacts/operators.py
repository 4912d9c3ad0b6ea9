"""What the formats call the operators that `graph` counts."""

from __future__ import annotations

TRANSPOSES = {
    "onnx": ("Transpose",),
    "openvino": ("Transpose",),
    "litert": ("TRANSPOSE",),
    "coreml": ("transpose",),
    "ncnn": ("Permute",),
}
RESHAPES = {
    "onnx": ("Reshape", "Flatten", "Squeeze", "Unsqueeze"),
    "openvino": ("Reshape", "Squeeze", "Unsqueeze"),
    "litert": ("RESHAPE", "SQUEEZE", "EXPAND_DIMS"),
    "coreml": ("reshape", "squeeze", "expand_dims"),
    "ncnn": ("Reshape", "Flatten", "Squeeze", "ExpandDims"),
}
GATES = {
    "onnx": ("Sigmoid", "Tanh"),
    "openvino": ("Sigmoid", "Tanh"),
    "litert": ("LOGISTIC", "TANH"),
    "coreml": ("sigmoid", "tanh"),
    "ncnn": ("Sigmoid", "TanH"),
}
"""The gates' activation and the candidate's. A step of a GRU has two of the first and one of the
second, a step of an LSTM three and two, less the gate of an empty state in the first step
(pytorch.org/docs/stable/generated/torch.nn.GRU.html and LSTM.html)."""
PRODUCTS = {
    "onnx": ("MatMul", "Gemm"),
    "openvino": ("MatMul",),
    "litert": ("FULLY_CONNECTED", "BATCH_MATMUL"),
    "coreml": ("linear", "matmul"),
    "ncnn": ("InnerProduct", "Gemm", "MatMul"),
}
STEPS = 4
"""The fewest candidates (TANH) that are taken for a recurrent layer written out."""

WEIGHTED = frozenset(
    [
        *("Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN", "Gather"),
        *("Convolution", "GroupConvolution", "ConvolutionBackpropData"),
        *("GroupConvolutionBackpropData", "LSTMSequence", "GRUSequence", "RNNSequence"),
        *("LSTMCell", "GRUCell", "RNNCell"),
        *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"),
        *("GATHER", "EMBEDDING_LOOKUP", "UNIDIRECTIONAL_SEQUENCE_LSTM"),
        *("conv", "conv_transpose", "linear", "matmul", "lstm", "gru", "rnn", "gather"),
    ]
)
"""Those whose constants are most of what a network has learnt, of all formats."""
AFTER_WEIGHTS = frozenset(
    [
        *("DequantizeLinear", "Cast", "Transpose", "Reshape"),
        *("Convert", "Multiply", "Subtract", "FakeQuantize"),
        *("DEQUANTIZE", "DENSIFY", "TRANSPOSE", "RESHAPE"),
    ]
)
"""Those between a weight, as it is stored, and what reads it."""
