"""Mixup and CutMix on the device: pictures are mixed in pairs, and their targets with them."""

import jax
import jax.numpy as jnp


def mix(
    key: jax.Array,
    images: jax.Array,
    targets: jax.Array,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Mixes each picture and its target with those of the next in the batch, which is shuffled.

    Mixup (Zhang 2018, arXiv:1710.09412) averages the two; the partner's share is from
    Beta(alpha, alpha). CutMix (Yun 2019, arXiv:1905.04899) pastes in a rectangle of the partner, in
    its place: its share of the area is from Beta(alpha, alpha), its centre anywhere, and what
    reaches over the edge is cut off. The target has the share of the pixels that were really
    pasted. Each picture draws for itself; with both on, it has one of the two, equally likely.

    Args:
      key: one random key for the batch.
      images: float32 [N, H, W, C].
      targets: float32 [N, K], each row of sum 1.
      mixup_alpha: above 0; 0 for no mixup.
      cutmix_alpha: above 0; 0 for no CutMix.

    Returns:
      Images and targets, float32, of the same shapes; as they came where both are off.

    Raises:
      ValueError: an alpha is negative.
    """
    for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        if alpha < 0:
            raise ValueError(f"{name} is {alpha}; it must be 0 or more")
    if not (mixup_alpha or cutmix_alpha):
        return images, targets
    num_images, height, width, _ = images.shape

    def draw_shares(key: jax.Array) -> jax.Array:
        """The partner's share of each pixel of one picture, [H, W, 1]."""
        choice_key, beta_key, centre_key = jax.random.split(key, 3)
        cuts = jax.random.uniform(choice_key) < 0.5 if mixup_alpha else jnp.bool_(True)
        alpha = jnp.where(cuts, cutmix_alpha, mixup_alpha) if cutmix_alpha else mixup_alpha
        share = jax.random.beta(beta_key, alpha, alpha, dtype=jnp.float32)
        if not cutmix_alpha:
            return jnp.broadcast_to(share, (height, width, 1))
        y, x = jax.random.uniform(centre_key, (2,)) * jnp.array([height, width], jnp.float32)
        side = jnp.sqrt(share)
        rows = jnp.abs(jnp.arange(height, dtype=jnp.float32) + 0.5 - y) < side * height / 2
        columns = jnp.abs(jnp.arange(width, dtype=jnp.float32) + 0.5 - x) < side * width / 2
        pasted = (rows[:, None, None] & columns[None, :, None]).astype(jnp.float32)
        return jnp.where(cuts, pasted, share)

    shares = jax.vmap(draw_shares)(jax.random.split(key, num_images))
    # The next in the batch and not a random one: the batch is shuffled already, and on a sharded
    # batch this moves one picture from device to device where a permutation would gather them all.
    images = images * (1 - shares) + jnp.roll(images, -1, 0) * shares
    share = jnp.mean(shares, (1, 2))
    return images, targets * (1 - share) + jnp.roll(targets, -1, 0) * share
