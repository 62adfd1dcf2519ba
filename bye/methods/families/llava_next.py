"""LLaVA-NeXT (LLaVA-1.6): the tower sees the whole image and tiles of it; the number of tiles follows the image."""

import numpy as np
import torch

from bye.models.family import Family
from bye.models.prompt import SYSTEM


class LlavaNext(Family):
    """`LlavaNextForConditionalGeneration`, prompts as the checkpoint's decoder has them (Vicuna, Mistral, ...).

    An image's tokens are those of the whole image, scaled to one tile, and then the rows of its tiles side by side,
    without what only pads them; each of these rows ends with a learned token. The latter shows nothing of the image, so
    its role is SYSTEM.
    """

    model_type = "llava_next"
    image_token = "<image>"
    any_resolution = True

    @classmethod
    def classes(cls):
        from transformers import LlavaNextForConditionalGeneration
        from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

        return LlavaNextForConditionalGeneration, LlavaNextImageProcessorPil

    @property
    def n_image_tokens(self):
        vision = self.model.config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    def image_ids(self, size=None):
        rows, columns = self._tile_grid(size)
        return [self.image_token_id] * (self.n_image_tokens + rows * (columns + 1))

    def image_tokens(self, size=None):
        ids, roles = super().image_tokens(size)
        rows, columns = self._tile_grid(size)
        roles[self.n_image_tokens :].reshape(rows, columns + 1)[:, -1] = SYSTEM
        return ids, roles

    def _tile_grid(self, size):
        """(rows, columns) of the tokens of all tiles of an image of that size (height, width)."""
        from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape, unpad_image

        config = self.model.config
        tiles = get_anyres_image_grid_shape(size, config.image_grid_pinpoints, config.vision_config.image_size)
        rows, columns = np.array(tiles) * self.grid()
        return unpad_image(torch.empty(1, rows, columns), size).shape[1:]

    def seen(self, image):
        return image  # whatever its form, all of it is scaled to one tile

    def pixels(self, images):
        return dict(self.image_processor(images=images, return_tensors="pt"))

    @torch.no_grad()
    def tower_features(self, pixels):
        """Packed as the image's tokens are, (tokens, width); zeros stand where a row of the tiles ends."""
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        config, features = self.model.config, self._before_projector(pixels)  # (tiles of all images, T, width)
        tiles = [
            image_size_to_num_patches(size, config.image_grid_pinpoints, config.vision_config.image_size)
            for size in pixels["image_sizes"]
        ]
        strategy, row_end = config.vision_feature_select_strategy, features.new_zeros(features.shape[-1])
        packed, _ = self.model.pack_image_features(features.split(tiles), pixels["image_sizes"], strategy, row_end)
        return packed

    def project(self, features):
        joined = torch.cat(features)
        row_end = (joined == 0).all(-1, keepdim=True)
        projected = torch.where(row_end, self.model.model.image_newline.to(joined), self._projector(joined))
        return list(projected.split([len(each) for each in features]))

    def projector_parameters(self):
        return [*super().projector_parameters(), self.model.model.image_newline]
