"""Multiple-choice questions put to a model: what it reads, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluation.multiple_choice import LETTERS, Choice, Rule, measure_choices
from evaluation.result import Result
from evaluation.speaker import Likelihood, Pictures, Speaker
from tools.evaluate.answering import Answers, Question
from tools.evaluate.choice_files import MLVU, VIDEO_MME, AskedChoice, ChoiceSet
from tools.evaluate.subtitles import Subtitle, read_subtitles, shown_at

VIDEO_MME_PROMPT = (
    "Select the best answer to the following multiple-choice question based on the video. Respond with only the letter "
    "({letters}) of the correct option.\n{question}\n{options}\nThe best answer is:"
)
SUBTITLES_PROMPT = "This video's subtitles are listed below:\n{subtitles}\n"
MLVU_PROMPT = (
    "Carefully watch this video and pay attention to every detail. Based on your observations, select the best option "
    "that accurately addresses the question.\nQuestion: {question}\nOptions:\n{options}\nOnly give the best option."
)
MLVU_BEGUN = "Best Option: ("
TEXT_PROMPT = "{question}"


class ChoiceAsker:
    """Asks one model the questions of one set."""

    def __init__(self, asked: ChoiceSet, speaker: Speaker, rule: Rule, subtitles: Path | None, videos: Path) -> None:
        """Take all that decides the answers.

        Args:
            asked: the questions.
            speaker: the model.
            rule: what is compared.
            subtitles: folder of .srt files by the names of videos; None shows none.
            videos: folder of the videos, for messages.

        Raises:
            ValueError: there are no subtitles, or a file of them is none.
        """
        self._asked, self._speaker, self._rule, self._videos = asked, speaker, rule, videos
        self._folder = subtitles
        self._subtitles = {} if subtitles is None else all_subtitles(asked, subtitles)
        self._by_name = {each.name: each for each in asked.questions}
        self._digests = {**asked.digests, "model": speaker.digest}

    def questions(self, paths: Mapping[str, Path | None]) -> list[Question]:
        """The questions with the paths of their videos by name, those about one video together."""
        found = [
            Question(name=each.name, about=paths[each.name] or each.videos[0], messages=())
            for each in self._asked.questions
        ]
        return sorted(found, key=lambda question: str(question.about))

    def decides(self, max_frames: int | None) -> dict[str, Any]:
        """All that decides the answers."""
        subtitles = None if self._folder is None else str(self._folder)
        return {**self._digests, "rule": self._rule, "subtitles": subtitles, "max_frames": max_frames}

    def read(self, about: Path | str) -> Pictures:
        """The frames of a video.

        Raises:
            ValueError: it is missing, or cannot be read.
        """
        if isinstance(about, str):
            raise ValueError(f"there is no video {about} in {self._videos}")
        return self._speaker.read(about)

    def weigh(self, question: Question, pictures: Pictures) -> list[list[float]]:
        """For each option its log-likelihood, and of how many tokens."""
        asked = self._by_name[question.name]
        options = LETTERS[: len(asked.options)] if self._rule == "letter" else asked.options
        messages = [{"role": "user", "content": self._prompt(asked, pictures)}]
        begun = MLVU_BEGUN if self._asked.layout == MLVU and self._rule == "letter" else ""
        found = self._speaker.weigh(pictures, messages, begun, list(options))
        return [[each.log, each.num_tokens] for each in found]

    def result(self, answers: Answers, advice: str) -> Result:
        """Score the answers; `advice` says where videos are to be had, if some are missing."""
        choices = [
            Choice(
                name=each.name,
                video=each.videos[0],
                kinds=each.kinds,
                answer=each.answer,
                likelihoods=[Likelihood(log, int(count)) for log, count in answers.found[each.name]],
                texts=each.options,
            )
            for each in self._asked.questions
            if each.name in answers.found
        ]
        is_mlvu = self._asked.layout == MLVU
        found = measure_choices(choices, self._rule, mean_over="task" if is_mlvu else None)
        protocol = {
            **found.protocol,
            "evaluator": f"choice by {self._rule}{'' if self._folder is None else ', with subtitles'}",
            "questions": self._asked.layout,
            "asked": self._template(),
            "answer_begun": MLVU_BEGUN if is_mlvu and self._rule == "letter" else "",
            "subtitles": f"those shown while the frames are, of {len(self._subtitles)} videos"
            if self._folder
            else "none",
            "counted": "questions whose video was read",
            **(
                {"m_avg": "plain mean of the accuracies of the tasks; accuracy is all right answers of all"}
                if is_mlvu
                else {}
            ),
            **self._speaker.facts(),
            "notes": [*answers.notes(advice), *self._asked.notes],
        }
        counts = {"num_questions": float(len(choices)), "num_failed": float(answers.num_failed)}
        metrics, tables = {**found.metrics, **counts}, {**found.tables, **answers.table()}
        return replace(found, metrics=metrics, protocol=protocol, digests=self._digests, tables=tables)

    def write_responses(self, result: Result, out: Path | None) -> None:
        """Write what Video-MME's own tool reads: its questions below their videos, with the letters as responses."""
        from shards.format.publish import publish_json

        if out is None or self._asked.layout != VIDEO_MME:
            return
        guesses = {row["id"]: row["guess"] for row in result.rows}
        videos: dict[str, dict[str, Any]] = {}
        for each in self._asked.questions:
            record = each.record
            about = {key: record[key] for key in ("video_id", "duration", "domain", "sub_category") if key in record}
            said = {
                key: record[key]
                for key in ("question_id", "task_type", "question", "options", "answer")
                if key in record
            }
            video = videos.setdefault(str(record["video_id"]), {**about, "questions": []})
            video["questions"].append({**said, "response": guesses.get(each.name, "")})
        out.mkdir(parents=True, exist_ok=True)
        publish_json(out / "choice_results.json", list(videos.values()))

    def _template(self) -> str:
        if self._rule == "text":
            return TEXT_PROMPT if self._folder is None else SUBTITLES_PROMPT + TEXT_PROMPT
        if self._asked.layout == MLVU:
            return MLVU_PROMPT
        return VIDEO_MME_PROMPT if self._folder is None else SUBTITLES_PROMPT + VIDEO_MME_PROMPT

    def _prompt(self, asked: AskedChoice, pictures: Pictures) -> str:
        letters, wrapped = LETTERS[: len(asked.options)], "({}) {}" if self._asked.layout == MLVU else "{}. {}"
        values = {
            "letters": f"{', '.join(letters[:-1])}, or {letters[-1]}",
            "question": asked.question,
            "options": "\n".join(wrapped.format(*each) for each in zip(letters, asked.options, strict=True)),
            "subtitles": shown_at(self._subtitles.get(asked.videos[0], []), pictures.seconds),
        }
        template = self._template()
        if not values["subtitles"]:
            template = template.removeprefix(SUBTITLES_PROMPT)
        return template.format(**values)


def all_subtitles(asked: ChoiceSet, folder: Path) -> dict[str, list[Subtitle]]:
    """The subtitles of the videos that have any, by the first name of the video.

    Raises:
        ValueError: none has, or a file is none of subtitles.
    """
    found: dict[str, list[Subtitle]] = {}
    for each in asked.questions:
        path = next((path for name in each.videos if (path := folder / f"{name}.srt").is_file()), None)
        if path is not None and each.videos[0] not in found:
            found[each.videos[0]] = read_subtitles(path)
    if not found:
        raise ValueError(f"{folder} has no subtitles of these videos, such as {asked.questions[0].videos[0]}.srt")
    return found
