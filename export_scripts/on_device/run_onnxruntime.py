import numpy as np
import onnxruntime as ort

session = ort.InferenceSession("artifacts/dsconv_3x64_224/dsconv_3x64_224.fp32.onnx")
image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)  # NCHW
(output,) = session.run(["output"], {"input": image})
print(output.shape)  # (1, 64, 224, 224)
