"""The chains of convolutions that the RRM paper has as teachers."""

from __future__ import annotations

from torch import Tensor, nn

from rrm_transfer.core.outputs import Outputs

# Channels of the convolutions; "M" halves the map. Simonyan, Zisserman, ICLR 2015, table 1.
_VGG = {
    11: "64 M 128 M 256 256 M 512 512 M 512 512 M",
    13: "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    16: "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    19: "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}


class CifarVGG(nn.Module):
    """VGG with batch norm and one linear layer for images of 32 px; VGG11 is a teacher of the RRM paper.

    Vaishnavi, Eykholt, Rahmati, USENIX Security 2022, table 1.

    Args:
        depth: 11, 13, 16 or 19.
        num_classes: Of the classifier.
        in_chans: Of the images.
    """

    def __init__(self, *, depth: int = 11, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for step in _VGG[depth].split():
            if step == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                channels = int(step)
                layers += [
                    nn.Conv2d(in_chans, channels, 3, padding=1),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(inplace=True),
                ]
                in_chans = channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(in_chans, num_classes)

    def forward(self, x: Tensor) -> Outputs:
        features = self.features(x).mean((2, 3))
        return Outputs(self.classifier(features), features)


class AlexNet(nn.Module):
    """AlexNet in its one-column form: Krizhevsky, "One weird trick", arXiv 1404.5997.

    Args:
        width: Of the representation: 4096, or 2048 in the RRM paper's Restricted-ImageNet teacher.
        num_classes: Of the classifier.
        in_chans: Of the images.
    """

    def __init__(self, *, width: int = 4096, num_classes: int = 1000, in_chans: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_chans, 64, 11, stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2),
            nn.AdaptiveAvgPool2d(6),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(),
            nn.Linear(256 * 36, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, width),
            nn.ReLU(inplace=True),
            nn.Linear(width, num_classes),
        )

    def forward(self, x: Tensor) -> Outputs:
        features = self.classifier[:-1](self.features(x).flatten(1))
        return Outputs(self.classifier[-1](features), features)
