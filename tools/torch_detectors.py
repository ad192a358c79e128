"""Torchvision's detectors with random weights that find a lot, for `detector_parity.py`.

The published ones, and its own classes at a few channels for `make test`. Of one stage and dense:
RetinaNet, FCOS; of one stage with default boxes: SSDLite; of two stages: Faster R-CNN. Only
`torch_detector` and what it returns are used; everything needs torch.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from weight_parity import randomise, tiny_resnet

MAX_BOXES = 8
ALL = 10**7  # more than there are anchors or proposals


@dataclasses.dataclass(frozen=True)
class Judge:
    """A detector, how it is made with torch, and how it is tried.

    make: builds it. prepare: gives it weights under which a few hundred or thousand boxes of
    different scores overlap, from images [n, 3, height, width] as its layers see them. size: of its
    images, (height, width). outputs: its module whose outputs are compared, and what makes them, by
    name and in the order of ours, [batch, anchors, ...], of that module's. images: how many; the
    outputs and losses are compared for the first `batch`. sides: of the boxes, as powers of ten of
    the image's; default boxes around a small box overlap it equally, and are matched by rounding.
    options: of `prepare`.
    """

    make: Callable[[], Any]
    prepare: Callable[..., None]
    size: tuple[int, int]
    outputs: Callable[[Any], tuple[Any, Callable]]
    images: int = 20
    batch: int = 4
    sides: tuple[float, float] = (-1.3, -0.15)
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def net(self) -> tuple[Any, Any]:
        """The net, as in evaluation, and uint8 images [count, 3, height, width]; always the same.

        Every weight is one that float16 holds.
        """
        import torch

        torch.manual_seed(0)
        net = self.make().eval()
        net.transform.min_size, net.transform.max_size = (min(self.size),), max(self.size)
        images = smooth_images(self.images, self.size)
        mean, std = (
            torch.tensor(v)[:, None, None]
            for v in (net.transform.image_mean, net.transform.image_std)
        )
        self.prepare(net, (images[: self.batch] / 255 - mean) / std, **self.options)
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.copy_(value.half().float())
        return net, images

    def targets(self, classes: int) -> list[dict]:
        """Boxes of all sizes, whose areas differ, and labels from 1; the last image has none."""
        import torch

        targets = []
        scale = torch.tensor([self.size[1], self.size[0]])
        for i in range(self.batch):
            n = 0 if i == self.batch - 1 else MAX_BOXES - i % 3
            side = scale * torch.logspace(*self.sides, MAX_BOXES)[:n, None]
            side *= 0.7 + 0.6 * torch.rand(n, 2)
            side = torch.minimum(side, 0.95 * scale).round()
            corner = ((scale - side) * torch.rand(n, 2)).round()
            boxes = torch.cat([corner, corner + side], 1)
            targets.append({"boxes": boxes, "labels": torch.randint(1, 1 + classes, (n,))})
        return targets


def smooth_images(count: int, size: tuple[int, int]):
    """Random uint8 images [count, 3, height, width] of large and small structures."""
    import torch
    from torch.nn.functional import interpolate

    total = torch.zeros(count, 3, *size)
    for step, weight in ((32, 1.0), (8, 0.5), (1, 0.15)):
        noise = torch.rand(count, 3, *(max(2, side // step) for side in size))
        total += weight * interpolate(noise, size=size, mode="bilinear")
    return (total / total.max() * 255).byte()


def published(name: str):
    """Torchvision's model `name` for COCO, with batch norms that are not yet frozen."""
    from torchvision.models import get_model

    return get_model(name, weights=None, weights_backbone=None)


# --- RetinaNet and FCOS ---------------------------------------------------------------------------


def tiny_pyramid(extra_channels: int):
    """A ResNet at 8 to 64 channels with a feature pyramid of 8."""
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops.feature_pyramid_network import LastLevelP6P7

    layers = {"layer2": "0", "layer3": "1", "layer4": "2"}
    extra = LastLevelP6P7(extra_channels, 8)
    body = tiny_resnet("Bottleneck", (1, 1, 1, 1), width=2)
    return BackboneWithFPN(body, layers, [16, 32, 64], 8, extra)


def tiny_retinanet():
    """Torchvision's RetinaNet of a tiny net, for three classes."""
    from torchvision.models.detection import RetinaNet

    return RetinaNet(tiny_pyramid(8), 4)


def tiny_retinanet_v2():
    """The same in its second version, with group norms of four groups."""
    from torch import nn
    from torchvision.models.detection import retinanet

    head = retinanet.RetinaNetHead(8, 9, 4, norm_layer=partial(nn.GroupNorm, 4))
    head.regression_head._loss_type = "giou"
    return retinanet.RetinaNet(tiny_pyramid(64), 4, head=head)


def tiny_fcos():
    """Torchvision's FCOS of a tiny net, with group norms of four groups."""
    from torch import nn
    from torchvision.models.detection import fcos

    head = fcos.FCOSHead(32, 1, 4)
    norm = partial(nn.GroupNorm, 4)
    head.classification_head = fcos.FCOSClassificationHead(8, 1, 4, norm_layer=norm)
    head.regression_head = fcos.FCOSRegressionHead(8, 1, norm_layer=norm)
    return fcos.FCOS(tiny_pyramid(8), 4, head=head)


def prepare_dense(net, images, candidates=3000, offsets=0.05, frozen_epsilon=None) -> None:
    """Of some classes more is found, and of class 0 nothing.

    candidates: about how many pairs of anchor and class are over the threshold. offsets: deviation
    of the offsets of boxes; one at which no score or overlap is so near a limit that torch's own
    detections differ between the dtypes. frozen_epsilon: of frozen batch norms, None for trained
    ones.
    """
    import torch

    randomise(net.backbone, images)
    for module, norm in net.backbone.named_modules():
        if module.endswith("bn3"):  # small, as in trained nets: otherwise rounding is amplified
            norm.weight.data *= 0.2
    with torch.no_grad():
        for name, value in net.head.named_parameters():
            if value.ndim == 4:
                torch.nn.init.kaiming_normal_(value)
            else:
                value.uniform_(0.5, 1) if name.endswith("weight") else value.normal_(0, 0.1)
        scale_dense_head(net, images, candidates, offsets)
    if frozen_epsilon is not None:
        freeze_norms(net, frozen_epsilon)


def scale_dense_head(net, images, candidates: int, offsets: float) -> None:
    """Gives the outputs of the head the wanted means and deviations."""
    import torch

    features = list(net.backbone(images).values())
    outputs, regression = net.head(features), net.head.regression_head
    of_points = hasattr(regression, "bbox_ctrness")
    if of_points:
        raw = torch.cat([regression.bbox_reg(regression.conv(x)).flatten(2) for x in features], 2)
        set_output(regression.bbox_reg, raw, 2.0, 0.4)
        set_output(regression.bbox_ctrness, outputs["bbox_ctrness"], 0.5, 1.5)
    else:
        set_output(regression.bbox_reg, outputs["bbox_regression"], 0.0, offsets)
    layer, logits = net.head.classification_head.cls_logits, outputs["cls_logits"]
    classes = torch.randn(logits.shape[2]) * 1.5
    classes[0] = -30
    layer.bias.zero_()
    set_output(layer, logits, 0.0, 1.0)
    layer.bias += classes.repeat(len(layer.bias) // len(classes))
    logits = net.head(features)["cls_logits"][..., 1:]
    rank = max(1, round(logits[:1].numel() * (1 - candidates / logits[:1].numel())))
    limit = logits[:1].flatten().kthvalue(rank).values
    layer.bias += (-2.2 if of_points else -2.9) - limit


def set_output(layer, outputs, mean: float, deviation: float) -> None:
    """Scales a layer so that its `outputs` get this mean and deviation."""
    scale = deviation / outputs.std()
    layer.weight.data *= scale
    layer.bias.data = layer.bias.data * scale + mean - (outputs * scale).mean()


def freeze_norms(module, epsilon: float):
    """Replaces the batch norms inside `module` by frozen ones of the same values."""
    from torch import nn
    from torchvision.ops import FrozenBatchNorm2d

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, epsilon)
            state = child.state_dict()
            del state["num_batches_tracked"]
            frozen.load_state_dict(state)
            setattr(module, name, frozen)
        else:
            freeze_norms(child, epsilon)


def head_outputs(net):
    """Of RetinaNet, FCOS and SSDLite, see `Judge.outputs`."""
    order = ("cls_logits", "bbox_regression", "bbox_ctrness")
    return net.head, lambda found: {name: found[name] for name in order if name in found}


# --- SSDLite and Faster R-CNN ---------------------------------------------------------------------


def tiny_ssdlite():
    """Torchvision's SSDLite on MobileNetV3 at 8 to 32 channels, of three classes."""
    from torch import nn
    from torchvision.models.detection import ssdlite
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.03)
    rows = [
        (8, 3, 8, 8, False, "RE", 1),
        (8, 3, 16, 8, False, "RE", 2),
        (8, 5, 32, 8, True, "HS", 2),
        (8, 3, 16, 8, True, "HS", 1),
    ]
    blocks = [InvertedResidualConfig(*row, dilation=1, width_mult=1.0) for row in rows]
    features = MobileNetV3(blocks, last_channel=16, norm_layer=norm).features
    net = ssdlite.SSDLiteFeatureExtractorMobileNet(features, 3, norm, 1 / 64, 8)
    levels = 6
    head = ssdlite.SSDLiteHead([32, 48, 8, 8, 8, 8], [6] * levels, 4, norm)
    anchors = DefaultBoxGenerator([[2, 3]] * levels, min_ratio=0.2, max_ratio=0.95)
    options = {"score_thresh": 0.001, "nms_thresh": 0.55, "topk_candidates": 300}
    halves = [0.5, 0.5, 0.5]
    size = (40, 24)  # width and height here
    return SSD(net, anchors, size, 4, halves, halves, head, detections_per_img=300, **options)


def faster_rcnn():
    """Torchvision's Faster R-CNN."""
    from torchvision.ops import poolers

    poolers.roi_align = roi_align
    return learning_from_all(published("fasterrcnn_resnet50_fpn"))


def tiny_faster_rcnn():
    """Torchvision's Faster R-CNN of three classes, on a ResNet of 4 channels in place of 64."""
    from torchvision.models.detection import faster_rcnn
    from torchvision.models.detection.backbone_utils import BackboneWithFPN
    from torchvision.ops import poolers

    poolers.roi_align = roi_align
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(tiny_resnet("Bottleneck"), layers, [16, 32, 64, 128], 4)
    net = faster_rcnn.FasterRCNN(
        backbone,
        rpn_pre_nms_top_n_test=60,
        rpn_post_nms_top_n_test=60,
        rpn_pre_nms_top_n_train=100,
        rpn_post_nms_top_n_train=100,
        box_head=faster_rcnn.TwoMLPHead(4 * 49, 8),
        box_predictor=faster_rcnn.FastRCNNPredictor(8, 4),
    )
    return learning_from_all(net)


def learning_from_all(net):
    """Draws all anchors and proposals for the losses, so that nothing is random.

    And makes labels of the type of the anchors: in float32, they would make the loss float32.
    """
    for part in (net.rpn, net.roi_heads):
        part.fg_bg_sampler.batch_size_per_image = ALL
    assign = net.rpn.assign_targets_to_anchors

    def assign_in_type(anchors, targets):
        labels, boxes = assign(anchors, targets)
        return [label.to(anchors[0].dtype) for label in labels], boxes

    net.rpn.assign_targets_to_anchors = assign_in_type
    return net


def roi_align(features, boxes, output_size, spatial_scale, sampling_ratio):
    """As torchvision's operator, which its Python form is not at the borders."""
    import torch

    sizes, count = features.shape[-2:], output_size[0] * sampling_ratio

    def taps(start, end, size):
        step = (end - start).clamp(min=1.0)[:, None] / count
        at = start[:, None] + (torch.arange(count) + 0.5).to(features.dtype) * step
        outside = (at < -1) | (at > size)
        at = at.clamp(0, size - 1)
        low = at.floor().long()
        return low, (low + 1).clamp(max=size - 1), at - low, outside

    rows_first = features.permute(0, 2, 3, 1).contiguous()
    found = [features.new_zeros(0, features.shape[1], *output_size)]
    for some in boxes.split(50):
        image = some[:, 0].long()[:, None, None]
        x0, y0, x1, y1 = (some[:, 1:] * spatial_scale).T
        top, bottom, down, out_y = (each[:, :, None] for each in taps(y0, y1, sizes[0]))
        left, right, across, out_x = (each[:, None] for each in taps(x0, x1, sizes[1]))
        down, across = down[..., None], across[..., None]
        above = rows_first[image, top, left] * (1 - across)
        above += rows_first[image, top, right] * across
        below = rows_first[image, bottom, left] * (1 - across)
        below += rows_first[image, bottom, right] * across
        x = (above * (1 - down) + below * down).masked_fill((out_y | out_x)[..., None], 0)
        x = torch.nn.functional.avg_pool2d(x.permute(0, 3, 1, 2), sampling_ratio)
        found.append(x)
    return torch.cat(found)


def proposal_outputs(net):
    """Of the first stage of Faster R-CNN, see `Judge.outputs`."""
    import torch

    def flat(levels, columns):
        levels = [x.permute(0, 2, 3, 1).reshape(len(x), -1, columns) for x in levels]
        return torch.cat(levels, 1)

    return net.rpn.head, lambda out: {"object": flat(out[0], 1)[..., 0], "anchor": flat(out[1], 4)}


# Of a last layer: itself, the deviation of its outputs, the bias of background, and how many
# columns an anchor has.
Last = tuple[Any, float, float, int]


def last_of_ssdlite(net) -> list[Last]:
    """The last layers, those of classes first."""
    classes = net.head.classification_head
    columns = classes.num_columns
    wide, background = (3.0, 22.0) if columns > 10 else (2.0, 9.5)
    found = [(block[1], wide, background, columns) for block in classes.module_list]
    return found + [(block[1], 0.3, 0.0, 4) for block in net.head.regression_head.module_list]


def last_of_faster_rcnn(net) -> list[Last]:
    """The last layers of both stages."""
    box, head = net.roi_heads.box_predictor, net.rpn.head
    columns = box.cls_score.out_features
    wide, background = (3.0, 10.0) if columns > 10 else (3.0, 0.5)
    return [
        (box.cls_score, wide, background, columns),
        (box.bbox_pred, 1.0, 0.0, 4),
        (head.cls_logits, 2.0, 0.0, 3),
        (head.bbox_pred, 0.3, 0.0, 4),
    ]


def prepare_last(net, images, last: Callable[[Any], list[Last]]) -> None:
    """Random weights, and outputs of the last layers with the wanted deviation."""
    import torch
    from torch import nn

    class Layers(nn.Module):
        """The net without what comes before and after its layers."""

        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, images):
            levels = list(net.backbone(images).values())
            return net.head(levels) if hasattr(net, "head") else levels

    found = {}
    randomise(Layers(), images)
    hooks = [
        layer.register_forward_hook(lambda layer, args, out: found.update({layer: out}))
        for layer, *_ in last(net)
    ]
    mean, std = (
        torch.tensor(v)[:, None, None] for v in (net.transform.image_mean, net.transform.image_std)
    )
    with torch.no_grad():
        net(list(images * std + mean))
        for layer, deviation, background, columns in last(net):
            scale = deviation / found[layer].std()
            layer.weight *= scale
            layer.bias *= scale
            layer.bias[::columns] += background
    for hook in hooks:
        hook.remove()
    net.eval()


# --- all of them ----------------------------------------------------------------------------------


def _dense(make: Callable, size: tuple[int, int] = (320, 416), **options) -> Judge:
    return Judge(make, prepare_dense, size, head_outputs, options=options)


def _last(make: Callable, size: tuple[int, int], outputs: Callable, last: Callable) -> Judge:
    return Judge(make, prepare_last, size, outputs, sides=(-0.4, -0.15), options={"last": last})


def _tiny(judge: Judge, **options) -> Judge:
    return dataclasses.replace(judge, images=2, batch=2, options={**judge.options, **options})


# Those published with an epsilon of 0 (`overwrite_eps`) are frozen with it.
TINY = {
    "tiny_retinanet": _tiny(_dense(tiny_retinanet, (64, 96), candidates=200, frozen_epsilon=0.0)),
    "tiny_retinanet_v2": _tiny(_dense(tiny_retinanet_v2, (64, 96), candidates=200)),
    "tiny_fcos": _tiny(_dense(tiny_fcos, (64, 96), candidates=200, frozen_epsilon=1e-5)),
    "tiny_ssdlite": _tiny(_last(tiny_ssdlite, (24, 40), head_outputs, last_of_ssdlite)),
    "tiny_faster_rcnn": _tiny(
        _last(tiny_faster_rcnn, (64, 96), proposal_outputs, last_of_faster_rcnn)
    ),
}
LARGE = {
    "retinanet_resnet50_fpn": _dense(
        partial(published, "retinanet_resnet50_fpn"), offsets=0.06, frozen_epsilon=0.0
    ),
    "retinanet_resnet50_fpn_v2": _dense(partial(published, "retinanet_resnet50_fpn_v2")),
    "fcos_resnet50_fpn": _dense(partial(published, "fcos_resnet50_fpn"), frozen_epsilon=1e-5),
    "ssdlite320_mobilenet_v3_large": _last(
        partial(published, "ssdlite320_mobilenet_v3_large"),
        (320, 320),
        head_outputs,
        last_of_ssdlite,
    ),
    "fasterrcnn_resnet50_fpn": _last(
        faster_rcnn, (256, 320), proposal_outputs, last_of_faster_rcnn
    ),
}
JUDGES = TINY | LARGE
