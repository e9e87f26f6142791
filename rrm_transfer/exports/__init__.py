"""A trained student in other forms than timm's: ONNX, torch.export, RobustBench."""
