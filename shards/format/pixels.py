"""The pixel statistics every ImageNet-pretrained backbone expects, VideoMAE included."""

# Mean and standard deviation of RGB in [0, 1], as in the ImageNet preprocessing of every published ViT.
IMAGENET_MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, float, float] = (0.229, 0.224, 0.225)
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
