"""What methods are made of: tensors and networks in, tensors out, no part knows another's business."""
