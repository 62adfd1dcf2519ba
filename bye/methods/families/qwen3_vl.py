"""Qwen3-VL: a tower for any resolution, features of several of its layers, and a decoder with positions in 3-D."""

import torch

from bye.models.family import Family


class Qwen3VL(Family):
    """`Qwen3VLForConditionalGeneration`, prompts in ChatML, images at their own resolution.

    The features of an image are (rows, columns, (1 + K) D): what stands in the places of its tokens, and what is added
    to them after each of the first K decoder layers (DeepStack).
    """

    model_type = "qwen3_vl"
    image_token = "<|image_pad|>"
    projector = r".*\.visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc\d"
    any_resolution = True
    counts_positions = False

    @classmethod
    def classes(cls):
        from transformers import Qwen3VLForConditionalGeneration
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        return Qwen3VLForConditionalGeneration, Qwen2VLImageProcessorPil

    def image_ids(self, size=None):
        rows, columns = self.grid(size)
        return [self.image_token_id] * (rows * columns)

    def grid(self, size=None):
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        limits, factor = self.image_processor.size, self.image_processor.patch_size * self._merge
        height, width = smart_resize(*size, factor, limits["shortest_edge"], limits["longest_edge"])
        return (height // factor, width // factor)

    @property
    def _merge(self):
        """How many patches in a row become one token."""
        return self.model.config.vision_config.spatial_merge_size

    def pixels(self, images):
        return dict(self.image_processor(images=images, return_tensors="pt"))

    @torch.no_grad()
    def image_features(self, pixels):
        output = self._encode(pixels)
        parts = [output.pooler_output, *output.deepstack_features]  # each a tensor (tokens, D) for every image
        return self._on_grids(torch.cat([torch.cat(part) for part in parts], dim=-1), self._grids(pixels))

    @torch.no_grad()
    def tower_features(self, pixels):
        """(rows, columns, patches of a token, (1 + K) width): the input of each merger, beside each other."""
        taken = {}

        def take(merger, inputs):
            taken[merger] = inputs[0]

        hooks = [merger.register_forward_pre_hook(take) for merger in self._mergers]
        visual, training = self.model.model.visual, self.model.model.visual.training
        visual.eval()  # the mergers are run here as well, and their LoRA must not draw its dropout
        try:
            self._encode(pixels)
        finally:
            visual.train(training)
            for hook in hooks:
                hook.remove()
        joined = torch.cat([taken[merger] for merger in self._mergers], dim=-1)  # (patches, (1 + K) width)
        return self._on_grids(joined.unflatten(0, (-1, self._merge**2)), self._grids(pixels))

    def project(self, features):
        joined = torch.cat([each.flatten(0, 2) for each in features])
        parts = joined.chunk(len(self._mergers), dim=-1)
        projected = [merger(part.contiguous()) for merger, part in zip(self._mergers, parts, strict=True)]
        return self._on_grids(torch.cat(projected, dim=-1), [each.shape[:2] for each in features])

    @property
    def _mergers(self):
        visual = self.model.model.visual
        return [visual.merger, *visual.deepstack_merger_list]

    def projector_parameters(self):
        return [parameter for merger in self._mergers for parameter in merger.parameters()]

    def _grids(self, pixels):
        return (pixels["image_grid_thw"][:, 1:] // self._merge).tolist()

    @staticmethod
    def _on_grids(tokens, grids):
        """Divide the tokens of all images, (tokens, ...), into one tensor (rows, columns, ...) for each."""
        parts = tokens.split([rows * columns for rows, columns in grids])
        return [part.unflatten(0, tuple(grid)) for part, grid in zip(parts, grids, strict=True)]

    def inputs(self, ids, features, mask=None):
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        embeddings = self.model.get_input_embeddings()(ids)
        joined = torch.cat([each.flatten(0, 1) for each in features])
        placed, *added = joined.to(embeddings).split(embeddings.shape[-1], dim=-1)
        output = BaseModelOutputWithDeepstackFeatures(pooler_output=[placed], deepstack_features=[[a] for a in added])
        return {
            "inputs_embeds": embeddings,  # the model itself looks for the image tokens among them
            "mm_encoder_outputs": {"image": output},
            "attention_mask": mask,
            "position_ids": self.positions(ids, features, mask),
        }

    def positions(self, ids, features, mask=None):
        """(3, B, N): time, row and column; those of a text's token are the same."""
        grids = torch.tensor([(1, each.shape[0] * self._merge, each.shape[1] * self._merge) for each in features])
        ids = ids.cpu()  # the library goes through them one by one
        mask = None if mask is None else mask.cpu()
        on_image = (ids == self.image_token_id).int()
        positions, _ = self.model.model.get_rope_index(ids, on_image, image_grid_thw=grids, attention_mask=mask)
        return positions.to(self.model.device)
