"""Turn a conversation into token ids by the checkpoint's chat template, so that no user text can shift a token span."""

import json
import secrets
from dataclasses import dataclass

import numpy as np
from tokenizers import AddedToken, Tokenizer

from bye.errors import ByeError

SYSTEM, IMAGE, TEXT, ANSWER = range(4)  # the role of a token; role tags and special tokens are SYSTEM


@dataclass(frozen=True)
class Tokens:
    """A tokenised conversation of N tokens, of which the first `n_prompt` come before the first answer.

    ids: (N,) int64; roles: (N,) int8, one of SYSTEM, IMAGE, TEXT (the user's question), ANSWER (answer and end token).
    """

    ids: np.ndarray
    roles: np.ndarray
    n_prompt: int


class PromptEncoder:
    """Encode conversations with the chat template of a checkpoint.

    The template is rendered with a marker in place of every user text, and all of its special tokens are renamed to
    secret names, in the rendered text and in a copy of the tokenizer. A special token spelled out by a user is then
    plain text, while everything else is tokenised in one go, exactly as the checkpoint's own tokenizer does it.

    tokenizer: a fast tokenizer of `transformers`; template: its chat template (Jinja);
    image_token: what the template writes for the image, exactly once; image_tokens: a function from an image's size to
    the ids and the roles of the tokens that stand for it in the model's input.
    Raises ByeError where the template cannot be used so.
    """

    def __init__(self, tokenizer, template, image_token, image_tokens):
        self.tokenizer, self.template, self.image_tokens = tokenizer, template, image_tokens
        self.placeholder_id = tokenizer.convert_tokens_to_ids(image_token)
        self._hide_special_tokens(image_token)
        with_special, without = (tokenizer("a", add_special_tokens=flag).input_ids for flag in (True, False))
        self.begin_ids = with_special[: with_special.index(without[0])]
        self.prompt_pieces = self._render(1, generation=True)
        self.rendered = {}  # number of turns -> the template's text around them
        self.end_token_ids = {tokenizer.eos_token_id, self._id_at_start(self._pieces(1)[2])} - {None}

    def prompt(self, question, size=None):
        """Tokens of a one-turn prompt on an image of that size, up to where the model is to answer."""
        return self._tokens(self.prompt_pieces, [question], size)

    def conversation(self, turns, size=None):
        """Tokens of a whole conversation: `turns` is a list of (question, answer) pairs; answers lose outer blanks.

        Raises ByeError where the answer would change how the prompt before it is tokenised.
        """
        texts = [text for question, answer in turns for text in (question, answer.strip())]
        prompt, tokens = self.prompt(texts[0], size), self._tokens(self._pieces(len(turns)), texts, size)
        if not np.array_equal(tokens.ids[: prompt.n_prompt], prompt.ids):
            raise ByeError(f"the answer {texts[1][:40]!r} changes the tokens before it; remove its first character")
        return Tokens(tokens.ids, tokens.roles, prompt.n_prompt)

    def _tokens(self, pieces, texts, size):
        """Encode the template's pieces with the user texts between them, and the image's tokens in their place."""
        text, roles_of_characters = "", []
        for number, piece in enumerate(pieces):
            text += piece
            roles_of_characters += [SYSTEM] * len(piece)
            if number < len(texts):
                text += texts[number]
                roles_of_characters += [ANSWER if number % 2 else TEXT] * len(texts[number])
        encoding = self.guarded.encode(text, add_special_tokens=False)
        ids = [self.original_ids.get(token, token) for token in encoding.ids]
        roles = [max(roles_of_characters[start:end], default=SYSTEM) for start, end in encoding.offsets]
        for position, role in enumerate(roles):
            if role != SYSTEM and ids[position] in self.special_ids:
                raise ByeError(
                    f"the text {text[slice(*encoding.offsets[position])]!r} cannot be told from a special token by "
                    "this model's tokenizer; remove it from the sample"
                )
            if role == SYSTEM and position and roles[position - 1] == ANSWER and ids[position] in self.end_token_ids:
                roles[position] = ANSWER
        if not (self.begin_ids and ids[:1] == self.begin_ids[:1]):
            ids, roles = self.begin_ids + ids, [SYSTEM] * len(self.begin_ids) + roles
        place = ids.index(self.placeholder_id)
        image_ids, image_roles = self.image_tokens(size)
        ids = np.concatenate([ids[:place], image_ids, ids[place + 1 :]]).astype(np.int64)
        roles = np.concatenate([roles[:place], image_roles, roles[place + 1 :]]).astype(np.int8)
        return Tokens(ids, roles, len(ids))

    def _pieces(self, n_turns):
        """The template's text around the user texts of `n_turns` turns, each answer closed by an end token."""
        if n_turns not in self.rendered:
            pieces = self._render(n_turns, generation=False)
            pieces[2::2] = map(self._closed, pieces[2::2])
            self.rendered[n_turns] = pieces
        return self.rendered[n_turns]

    def _render(self, n_turns, generation):
        """The template's own text around the user texts, special tokens under their secret names."""
        marks = [f"\uf8f0{number}\uf8f1" for number in range(2 * n_turns - generation)]
        messages = []
        for number, mark in enumerate(marks):
            content = [{"type": "text", "text": mark}]
            if number == 0:
                content.insert(0, {"type": "image"})
            messages.append({"role": "assistant" if number % 2 else "user", "content": content})
        text = self.tokenizer.apply_chat_template(
            messages, chat_template=self.template, add_generation_prompt=generation, tokenize=False
        )
        for name, secret in self.secrets:
            text = text.replace(name, secret)
        pieces = []
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found:
                raise ByeError("the chat template of the model drops a part of the conversation; mend the template")
            pieces.append(before)
        return [*pieces, text]

    def _id_at_start(self, piece):
        """The id of the special token that `piece` begins with."""
        secret = next(secret for _, secret in self.secrets if piece.startswith(secret))
        return self.original_ids[self.guarded.token_to_id(secret)]

    def _closed(self, piece):
        """The template's text after an answer, made to begin with the end token (some templates leave it out)."""
        if any(piece.startswith(secret) for _, secret in self.secrets):
            return piece
        return dict(self.secrets)[self.tokenizer.eos_token] + piece.lstrip()

    def _hide_special_tokens(self, image_token):
        """Copy the tokenizer with every special token renamed to a name that no user can know."""
        added = self.tokenizer.added_tokens_decoder  # id -> AddedToken
        hidden = {i: token for i, token in added.items() if token.special or token.content == image_token}
        nonce = secrets.token_hex(8)
        names = {i: f"\uf8f2{nonce}{i}\uf8f3" for i in hidden}
        self.secrets = sorted(((t.content, names[i]) for i, t in hidden.items()), key=lambda pair: -len(pair[0]))
        self.special_ids = set(hidden)
        specification = json.loads(self.tokenizer.backend_tokenizer.to_str())
        specification.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
        self.guarded = Tokenizer.from_str(json.dumps(specification))
        self.original_ids = {}
        for i, token in added.items():
            flags = {flag: getattr(token, flag) for flag in ("lstrip", "rstrip", "single_word", "normalized")}
            name = names.get(i, token.content)
            self.guarded.add_tokens([AddedToken(name, special=False, **flags)])
            self.original_ids[self.guarded.token_to_id(name)] = i
