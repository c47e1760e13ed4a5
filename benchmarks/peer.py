"""The peer: the same models and the same work in PyTorch, as a good PyTorch program does it.

channels_last, whichever of eager and torch.compile is faster, cuDNN's convolutions chosen by trial,
autocast to bfloat16 where the case asks for it. Written from the papers' descriptions, with the
parameter counts of ours.
"""

import dataclasses
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.cases import CLIP_NORM, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Case, create_batch
from skinjax.data.augment import MEAN, STD
from skinjax.data.sources.example import CLASSES
from skinjax.models.cbam_resnet import STAGES
from skinjax.models.efficientnet_lite import stages


class SqueezeExcitation(nn.Module):
    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.squeeze, self.excite = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x):
        gate = self.excite(F.relu(self.squeeze(x.mean((2, 3)))))
        return x * torch.sigmoid(gate)[:, :, None, None]


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    layers = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, SqueezeExcitation(outputs))


class SEUNet(nn.Module):
    def __init__(self, base: int):
        super().__init__()
        widths = [base * 2**level for level in range(5)]
        inputs = [3, *widths[:-1]]
        self.encoders = nn.ModuleList(
            double_conv(i, o) for i, o in zip(inputs, widths, strict=True)
        )
        self.ups = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in widths[:-1])
        self.decoders = nn.ModuleList(double_conv(2 * w, w) for w in widths[:-1])
        self.head = nn.Conv2d(base, 1, 1)

    def forward(self, x):
        skips = []
        for encoder in self.encoders[:-1]:
            skips.append(encoder(x))
            x = F.max_pool2d(skips[-1], 2)
        x = self.encoders[-1](x)
        for level in (3, 2, 1, 0):
            x = self.decoders[level](torch.cat([skips[level], self.ups[level](x)], 1))
        return self.head(x)


class CBAM(nn.Module):
    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        hidden = channels // reduction
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels)
        )
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x):
        gate = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        x = x * torch.sigmoid(gate)[:, :, None, None]
        planes = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.norm(self.conv(planes)))


class Block(nn.Module):
    def __init__(self, inputs: int, features: int, stride: int, bottleneck: bool):
        super().__init__()
        if bottleneck:
            plan = [(inputs, features, 1, 1), (features, features, 3, stride)]
            plan += [(features, 4 * features, 1, 1)]
        else:
            plan = [(inputs, features, 3, stride), (features, features, 3, 1)]
        outputs = plan[-1][1]
        layers = []
        for i, o, size, step in plan:
            layers += [
                nn.Conv2d(i, o, size, step, size // 2, bias=False),
                nn.BatchNorm2d(o),
                nn.ReLU(inplace=True),
            ]
        self.branch = nn.Sequential(*layers[:-1], CBAM(outputs))
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        return F.relu(self.branch(x) + self.shortcut(x))


class CBAMResNet(nn.Module):
    def __init__(self, depth: int, small_stem: bool):
        super().__init__()
        stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False)]
        if not small_stem:
            stem = [nn.Conv2d(3, 64, 7, 2, 3, bias=False)]
        stem += [nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
        if not small_stem:
            stem.append(nn.MaxPool2d(3, 2, 1))
        blocks, inputs = [], 64
        for stage, count in enumerate(STAGES[depth]):
            for number in range(count):
                stride = 2 if stage and not number else 1
                blocks.append(Block(inputs, 64 * 2**stage, stride, depth >= 50))
                inputs = 64 * 2**stage * (4 if depth >= 50 else 1)
        self.trunk = nn.Sequential(*stem, *blocks)
        self.head = nn.Linear(inputs, len(CLASSES))

    def forward(self, x):
        return self.head(self.trunk(x).mean((2, 3)))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, size: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        layers = []
        if expansion > 1:
            layers += [*normed(nn.Conv2d(inputs, wide, 1, bias=False)), nn.ReLU6(inplace=True)]
        depthwise = nn.Conv2d(wide, wide, size, stride, size // 2, groups=wide, bias=False)
        layers += [*normed(depthwise), nn.ReLU6(inplace=True)]
        layers += normed(nn.Conv2d(wide, outputs, 1, bias=False))
        self.branch = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        return self.branch(x) + x if self.adds else self.branch(x)


class EfficientNetLite(nn.Module):
    def __init__(self, variant: int):
        super().__init__()
        layers = [*normed(nn.Conv2d(3, 32, 3, 2, 1, bias=False)), nn.ReLU6(inplace=True)]
        inputs = 32
        for count, size, stride, expansion, outputs in stages(variant):
            for number in range(count):
                layers.append(
                    InvertedResidual(inputs, outputs, size, 1 if number else stride, expansion)
                )
                inputs = outputs
        layers += [CBAM(inputs), *normed(nn.Conv2d(inputs, 1280, 1, bias=False))]
        self.trunk = nn.Sequential(*layers, nn.ReLU6(inplace=True))
        self.head = nn.Linear(1280, len(CLASSES))

    def forward(self, x):
        return self.head(self.trunk(x).mean((2, 3)))


def normed(conv: nn.Conv2d) -> list[nn.Module]:
    return [conv, nn.BatchNorm2d(conv.out_channels, eps=1e-3, momentum=0.01)]


def create_model(case: Case) -> nn.Module:
    """The model of a case."""
    if case.model == "seunet":
        return SEUNet(case.width)
    if case.model == "lite":
        return EfficientNetLite(case.width)
    return CBAMResNet(case.width, case.small_stem)


@dataclasses.dataclass
class PeerStep:
    """A step of the peer.

    Attributes:
        call: does one step and waits for it.
        num_parameters: of the model.
        form: 'eager' or 'compile': the faster one.
    """

    call: Callable[[], None]
    num_parameters: int
    form: str


def peer_step(case: Case, train: bool, tries: int = 3) -> PeerStep:
    """A training or a prediction step, in the faster of eager and compiled form."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # as XLA does
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch = {name: torch.from_numpy(array).to(device) for name, array in create_batch(case).items()}
    forms: dict[str, Callable[[], None]] = {}
    seconds: dict[str, float] = {}
    num_parameters = 0
    for form in ("eager", "compile"):
        model = create_model(case).to(device, memory_format=torch.channels_last).train(train)
        num_parameters = sum(p.numel() for p in model.parameters())
        compute = _on_images(model, device)
        forward = torch.compile(compute) if form == "compile" else compute
        make = _train_call if train else _predict_call
        call = make(case, model, forward, batch, device)
        try:
            call()
        except Exception as error:
            # Without a C++ compiler, say, there is the eager form.
            if form == "eager":
                raise
            print(f"torch.compile: {type(error).__name__}, so eager is the peer")
            continue
        call()
        start = time.perf_counter()
        for _ in range(tries):
            call()
        forms[form], seconds[form] = call, time.perf_counter() - start
    best = min(seconds, key=lambda form: seconds[form])
    return PeerStep(forms[best], num_parameters, best)


def _on_images(model: nn.Module, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """The model on uint8 NHWC, normalised to NCHW in channels_last on the device, as ours."""
    mean, std = (torch.from_numpy(255 * value).to(device) for value in (MEAN, STD))

    def compute(images: torch.Tensor) -> torch.Tensor:
        return model(((images.float() - mean) / std).permute(0, 3, 1, 2))

    return compute


def _train_call(case, model, forward, batch, device) -> Callable[[], None]:
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1]},
            {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        LEARNING_RATE,
        momentum=MOMENTUM,
        nesterov=True,
        weight_decay=WEIGHT_DECAY,
    )
    lower = case.dtype == "bfloat16"

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=lower):
            logits = forward(batch["images"])
        logits = logits.float()
        if case.model == "seunet":
            masks = batch["masks"].permute(0, 3, 1, 2).float()
            p = torch.sigmoid(logits)
            overlap, total = (p * masks).sum((1, 2, 3)), (p + masks).sum((1, 2, 3))
            loss = F.binary_cross_entropy_with_logits(logits, masks)
            loss = loss + (1 - (2 * overlap + 1) / (total + 1)).mean()
        else:
            loss = F.cross_entropy(logits, batch["labels"].long())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        _wait(device)

    return call


def _predict_call(case, model, forward, batch, device) -> Callable[[], None]:
    lower = case.dtype == "bfloat16"

    def call() -> None:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=lower):
            logits = forward(batch["images"]).float()
            torch.sigmoid(logits) if case.model == "seunet" else torch.log_softmax(logits, 1)
        _wait(device)

    return call


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
