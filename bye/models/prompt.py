"""Turn a conversation into token ids by the checkpoint's chat template, so that no user text can shift a token span."""

import json
import secrets
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from tokenizers import AddedToken, Tokenizer

from bye.errors import ByeError

REMEMBERED = 256  # prompts; the questions of a training set repeat
SYSTEM, IMAGE, TEXT, ANSWER = range(4)  # the role of a token; role tags and special tokens are SYSTEM


@dataclass(frozen=True)
class Tokens:
    """A tokenised conversation of N tokens with A answers, of which the last may be yet to come.

    ids: (N,) int64; roles: (N,) int8, one of SYSTEM, IMAGE, TEXT (the user's question), ANSWER (answer and end token);
    places: (A,) int64, of each answer the token from which the model goes on to it: the last one before it.
    """

    ids: np.ndarray
    roles: np.ndarray
    places: np.ndarray

    @property
    def n_prompt(self):
        """How many tokens come before the first answer."""
        return int(self.places[0]) + 1

    def answer_tokens(self):
        """Of the tokens of all answers, end tokens too: their places (n,), and the number of each one's answer (n,)."""
        places = np.flatnonzero(self.roles == ANSWER)
        return places, np.searchsorted(self.places, places) - 1

    @property
    def n_read(self):
        """How many tokens the model must read to tell of every answer's tokens: no more than those before the last."""
        places, answers = self.answer_tokens()
        return int(places[-1]) if len(places) and answers[-1] == len(self.places) - 1 else len(self.ids)


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
        self.tokenizer, self.template = tokenizer, template
        self.image_token, self.image_tokens = image_token, image_tokens
        self.first_prompt = lru_cache(REMEMBERED)(self.prompt)
        self.placeholder_id = tokenizer.convert_tokens_to_ids(image_token)
        self._hide_special_tokens(image_token)
        with_special, without = (tokenizer("a", add_special_tokens=flag).input_ids for flag in (True, False))
        self.begin_ids = with_special[: with_special.index(without[0])]
        self.rendered = {}  # what `_pieces` has made
        self.opening = self._pieces(1, generation=True)[-1]  # what asks for an answer
        self.takes_system = self._takes_system()
        self.end_token_ids = {tokenizer.eos_token_id, self._id_at_start(self._pieces(1)[2])} - {None}

    def prompt(self, question, size=None, system=None):
        """Tokens of a one-turn prompt on an image of that size, up to where the model is to answer.

        system: the conversation's system prompt, or None. It is the template's message of role system, and its tokens
        are SYSTEM; where the template has no such message, it stands in front of the first question.
        """
        return self._tokens([question], size, system)

    def conversation(self, turns, size=None, system=None):
        """Tokens of a whole conversation: `turns` is a list of (question, answer) pairs; answers lose outer blanks.

        Raises ByeError where the first answer would change how the prompt before it is tokenised, and where an answer
        has no tokens.
        """
        return self._told([text for question, answer in turns for text in (question, answer.strip())], size, system)

    def asked(self, turns, size=None, system=None):
        """Tokens of a conversation up to where the model is to give its last answer, with the places of all answers.

        The earlier answers are there, with their end tokens, as in `conversation`; the last one is not seen. Of one
        turn it is the prompt. Raises ByeError as `conversation` does.
        """
        texts = [text for question, answer in turns for text in (question, answer.strip())][:-1]
        return self.prompt(texts[0], size, system) if len(texts) == 1 else self._told(texts, size, system)

    def _told(self, texts, size, system):
        """Encode texts, questions and answers in turn; check that all answers can be found in them."""
        prompt, tokens = self.first_prompt(texts[0], size, system), self._tokens(texts, size, system)
        if not np.array_equal(tokens.ids[: len(prompt.ids)], prompt.ids):
            raise ByeError(f"the answer {texts[1][:40]!r} changes the tokens before it; remove its first character")
        places = np.array([len(prompt.ids) - 1, *tokens.places[1:]])
        ends = [*places[1:], len(tokens.ids)]
        for number in range(len(texts) // 2):
            if not (tokens.roles[places[number] + 1 : ends[number]] == ANSWER).any():
                raise ByeError(f"answer {number + 1} has no tokens in this model's tokenizer; fill it in")
        return Tokens(tokens.ids, tokens.roles, places)

    def _tokens(self, texts, size, system):
        """Encode texts, questions and answers in turn, in the template, and the image's tokens in their place."""
        text, roles_of_characters, written, asked = self._lay_out(texts, system)
        encoding = self.guarded.encode(text, add_special_tokens=False)
        ids = [self.original_ids.get(token, token) for token in encoding.ids]
        offsets = encoding.offsets
        roles = [max(roles_of_characters[start:end], default=SYSTEM) for start, end in offsets]
        for position, (start, end) in enumerate(offsets):
            if ids[position] in self.special_ids and any(start < last and first < end for first, last in written):
                raise ByeError(
                    f"the text {text[start:end]!r} cannot be told from a special token by this model's tokenizer; "
                    "remove it from the sample"
                )
            after_answer = roles[position] == SYSTEM and position and roles[position - 1] == ANSWER
            if after_answer and ids[position] in self.end_token_ids:
                roles[position] = ANSWER
        ends = np.array([end for _, end in offsets])
        places = [int(np.sum(ends <= place)) - 1 for place in asked]
        if not (self.begin_ids and ids[:1] == self.begin_ids[:1]):
            ids, roles = self.begin_ids + ids, [SYSTEM] * len(self.begin_ids) + roles
            places = [place + len(self.begin_ids) for place in places]
        image = ids.index(self.placeholder_id)
        image_ids, image_roles = self.image_tokens(size)
        ids = np.concatenate([ids[:image], image_ids, ids[image + 1 :]]).astype(np.int64)
        roles = np.concatenate([roles[:image], image_roles, roles[image + 1 :]]).astype(np.int8)
        return Tokens(ids, roles, np.array(places) + len(image_ids) - 1)

    def _lay_out(self, texts, system):
        """Put texts, questions and answers in turn, into the template.

        Returns the whole as one text, the role of each of its characters, where in it the given texts begin and end,
        and where each answer has been asked for, which the template may follow with a blank.
        """
        roles = [ANSWER if number % 2 else TEXT for number in range(len(texts))]
        n_turns, generation = (len(texts) + 1) // 2, len(texts) % 2 == 1
        apart = system is not None and self.takes_system
        if apart:
            texts, roles = [system, *texts], [SYSTEM, *roles]
        elif system is not None:
            texts = [f"{system}\n{texts[0]}", *texts[1:]]
        *pieces, last = self._pieces(n_turns, generation, apart)
        text, roles_of_characters, written, asked = "", [], [], []
        for piece, given, role in zip(pieces, texts, roles, strict=True):
            if role == ANSWER:
                asked.append(len(text) + len(self.opening if piece.startswith(self.opening) else piece))
            start = len(text) + len(piece)
            written.append((start, start + len(given)))
            text += piece + given
            roles_of_characters += [SYSTEM] * len(piece) + [role] * len(given)
        text += last
        roles_of_characters += [SYSTEM] * len(last)
        if generation:
            asked.append(len(text))
        return text, roles_of_characters, written, asked

    def _pieces(self, n_turns, generation=False, system=False):
        """The template's text around the texts of `n_turns` turns, each answer closed by an end token.

        generation: the last answer is yet to come; system: a system message's text comes before the others.
        """
        key = n_turns, generation, system
        if key not in self.rendered:
            pieces = self._render(n_turns, generation, "system" if system else None)
            after_answers = slice(3 if system else 2, None, 2)
            pieces[after_answers] = map(self._closed, pieces[after_answers])
            self.rendered[key] = pieces
        return self.rendered[key]

    def _render(self, n_turns, generation, first=None):
        """The template's own text around the texts, special tokens under their secret names.

        first: role of a message without an image in front of the turns, or None.
        """
        roles = ["assistant" if number % 2 else "user" for number in range(2 * n_turns - generation)]
        roles = roles if first is None else [first, *roles]
        showing = 0 if first is None else 1  # the image
        marks = [f"\uf8f0{number}\uf8f1" for number in range(len(roles))]
        messages = []
        for number, (role, mark) in enumerate(zip(roles, marks, strict=True)):
            content = [{"type": "text", "text": mark}]
            if number == showing:
                content.insert(0, {"type": "image"})
            messages.append({"role": role, "content": content})
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

    def _takes_system(self):
        """Whether the template writes a message of role system as such, in front of the conversation.

        Some drop it, raise, write it as if a user or the assistant had said it, or put it before the last question.
        """
        system, as_user, as_assistant = map(self._with_first, ("system", "user", "assistant"))
        return system is not None and system not in (as_user, as_assistant)

    def _with_first(self, role):
        """What the template writes with a message of that role in front: the pieces of two cases; None if it fails."""
        try:
            pieces = [self._render(1, True, role), self._render(2, False, role)]
        except Exception:  # a template raises what it likes
            return None
        image = dict(self.secrets)[self.image_token]
        return pieces if all("".join(each).count(image) == 1 for each in pieces) else None

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
