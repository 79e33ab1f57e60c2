import numpy as np
from ai_edge_litert.interpreter import Interpreter

interpreter = Interpreter("artifacts/dsconv_3x64_224/dsconv_3x64_224.fp32.tflite", num_threads=1)
run = interpreter.get_signature_runner()
image = np.random.default_rng(0).standard_normal((1, 224, 224, 3), dtype=np.float32)  # NHWC
output = run(input=image)["output"]
print(output.shape)  # (1, 224, 224, 64)
