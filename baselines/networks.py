"""ResNet, ConvNeXt, ViT and Swin through timm, each with random and with ImageNet weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medtransfer.encoders.registry import built_by, register
from medtransfer.specs.encoder import (
    RANDOM_WEIGHTS,
    Architecture,
    EncoderCard,
    Input,
    PretrainingCard,
    Weights,
)

if TYPE_CHECKING:
    from torch import nn

_HALF = Input(mean=[0.5] * 3, std=[0.5] * 3)
_RESNET = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
_CONVNEXT = "Liu et al., A ConvNet for the 2020s, CVPR 2022"
_VIT = "Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021"
_SWIN = "Liu et al., Swin Transformer, ICCV 2021"


@dataclass(frozen=True)
class _Network:
    title: str
    timm: str
    tag: str  # timm's tag of the weights trained on ImageNet
    citation: str
    input: Input = field(default_factory=Input)
    random_options: dict[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ("imagenet-1k",)


# timm starts the last batch-norm of each residual branch at zero, which would make the frozen
# features of a random ResNet nearly those of its stem alone.
_RESIDUAL = {"zero_init_last": False}

_NETWORKS = {
    "resnet18": _Network("ResNet-18", "resnet18", "a1_in1k", _RESNET, random_options=_RESIDUAL),
    "resnet50": _Network("ResNet-50", "resnet50", "a1_in1k", _RESNET, random_options=_RESIDUAL),
    "convnext_atto": _Network("ConvNeXt-atto", "convnext_atto", "d2_in1k", _CONVNEXT),
    "convnext_tiny": _Network("ConvNeXt-tiny", "convnext_tiny", "fb_in1k", _CONVNEXT),
    "vit_tiny": _Network(
        "ViT-tiny/16",
        "vit_tiny_patch16_224",
        "augreg_in21k_ft_in1k",
        _VIT,
        input=_HALF,
        datasets=("imagenet-21k", "imagenet-1k"),
    ),
    "vit_small": _Network(
        "ViT-small/16", "vit_small_patch16_224", "augreg_in1k", _VIT, input=_HALF
    ),
    "swin_tiny": _Network("Swin-tiny", "swin_tiny_patch4_window7_224", "ms_in1k", _SWIN),
}


def _register_random(name: str, network: _Network) -> None:
    register(
        EncoderCard(
            name=name,
            title=f"{network.title}, random weights",
            citation=network.citation,
            architecture=Architecture(timm=network.timm, options=network.random_options),
            input=network.input,
            pretraining=RANDOM_WEIGHTS,
        )
    )


for _name, _network in _NETWORKS.items():
    _register_random(_name, _network)
    register(
        EncoderCard(
            name=f"{_name}-imagenet",
            title=f"{_network.title}, supervised on ImageNet",
            licence="Apache-2.0",
            citation=_network.citation,
            url=f"https://huggingface.co/timm/{_network.timm}.{_network.tag}",
            architecture=Architecture(timm=_network.timm),
            weights=Weights(hub=f"{_network.timm}.{_network.tag}"),
            input=_network.input,
            pretraining=PretrainingCard(
                domains=["natural"], datasets=list(_network.datasets), objective="supervised"
            ),
        )
    )

# Small enough to be pre-trained on a processor: the studies of pre-training are made with these.
_SMALL = {
    "resnet_mini": _Network(
        "ResNet-18 of half the width",
        "resnet18",
        "",
        _RESNET,
        input=Input(size=64),
        random_options={**_RESIDUAL, "channels": [32, 64, 128, 256]},
    ),
    "vit_mini": _Network(
        "ViT of 4 blocks of 96 dimensions, patches of 8 px at 48 px",
        "vit_tiny_patch16_224",
        "",
        _VIT,
        input=_HALF.model_copy(update={"size": 48}),
        random_options={"patch_size": 8, "embed_dim": 96, "depth": 4, "num_heads": 3},
    ),
}

for _name, _network in _SMALL.items():
    _register_random(_name, _network)


def build_resnet18_28() -> nn.Module:
    """ResNet-18 with the CIFAR stem: one 3x3 convolution of stride 1, no pooling."""
    import timm
    from torch import nn

    from medtransfer.encoders.timm_networks import TimmNetwork

    network = timm.create_model("resnet18", num_classes=0)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return TimmNetwork(network)


register(
    EncoderCard(
        name="resnet18-28",
        title="ResNet-18 with a stem for 28-px images, random weights",
        citation=_RESNET,
        architecture=built_by(build_resnet18_28),
        # As in the MedMNIST experiments, whose published numbers it is there to reproduce.
        input=Input(size=28, mean=[0.5] * 3, std=[0.5] * 3),
        pretraining=RANDOM_WEIGHTS,
    ),
    build_resnet18_28,
)
