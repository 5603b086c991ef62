"""The vocabularies of the published files, each word with its meaning: what a reader is told."""

from __future__ import annotations

from collections.abc import Mapping

Words = Mapping[str, str]

CONTROL = "none"
"""The undefended entrant, against which all others are held."""

SETTINGS: Words = {
    "board": "our budget",
    "published": "published settings, on no defense",
}
"""Of an attack: what params.yaml has of it, and what its authors published."""
BOARD, PUBLISHED = SETTINGS

STATUSES: Words = {
    "ok": "the attack ran and its guess was scored",
    "failed": "the attack ended with an error",
    "timeout": "the attack reached its time limit; its last guess is scored where there is one",
    "oom": "the attack ran out of memory",
    "unsupported": "not run: the attack cannot use this evidence, and says why",
}
KNOWLEDGE: Words = {
    "oblivious": "the message is taken as if there were no defense; without one there is nothing"
    " else to know",
    "paper": "the strongest evidence that the defense's own paper considered",
    "adaptive": "everything that follows from knowing the defense and its parameters, but not the"
    " client's randomness",
}
THREATS: Words = {
    "curious": "an honest-but-curious server: it follows the protocol and keeps what it sees. The"
    " ranks suppose no more than this",
    "auxiliary": "the attacker has also learned from auxiliary data, which are nobody's victims:"
    " such attacks have a column of their own and never count in another figure or in a rank",
    "malicious": "the server departs from the protocol and sends crafted weights: a scenario of its"
    " own, whose rows are not comparable with those of the others",
}
VERDICTS: Words = {
    "ok": "the private example came back, so there is no failure to explain",
    "evidence-exhausted": "not recovered, and the guess explains what was observed at least as well"
    " as the truth does: the only failure credited to a defense",
    "optimiser-failed": "not recovered, but the truth would explain what was observed better than"
    " the guess: the attack's optimiser failed, no credit to the defense",
    "broken-attack": "the attack's own objective is large at the truth although nothing was"
    " protected: the attack is broken, no credit to the defense",
    "not-applicable": "a closed form, which minimises nothing: what it assumes of the message does"
    " not hold here, as the attack says itself, so it tells nothing of the defense",
    "missed": "a closed form whose assumption holds, and which found nothing all the same: no"
    " credit to the defense",
    "inconclusive": "of a whole row: more than a tenth of its private examples were not recovered,"
    " and the audit does not credit the defense with them",
}
FLAGS: Words = {
    "probe": "attacked with one private example per message, the easiest case for an attacker",
    "no-adaptive": "no attack ran on evidence that knows the defense, so there is no figure and no"
    " rank: what an attacker who ignores the defense finds says nothing of one who does not",
    "generic-only": "no evidence of this defense's own was attacked here, only the generic kind"
    " that every defense has, so low leakage is not evidence of safety",
    "inconclusive": "more than a tenth of the private examples were not recovered although the"
    " audit does not credit the defense with it: a search failed, or no evidence describes the"
    " messages",
    "weak-control": "even without a defense the attacks recover less than four fifths here, so"
    " nobody is ranked",
    "broken-control": "even without a defense the truth does not explain a message here: the"
    " attacks are broken, so nobody is ranked",
    "no-headroom": "even without a defense no more is recovered here than without the messages, as"
    " far as the interval tells, so nobody is ranked",
    "chance-accuracy": "the model is not significantly more accurate than naming the largest class"
    " every time, so it has no use that a defense could keep, and no rank",
    "no-own-control": "there is no control of its own kind, shared model or clients' own models, to"
    " compare its accuracy with, so it is in no accuracy class and has no rank",
    "missing-cells": "some attacks on it ended without a result, so it is not ranked",
    "randomised": "the client draws random numbers that the attacker does not know: they are"
    " unknowns of the attack, and another draw may leak more or less",
    "budget-hit": "a larger budget than the board's found more, another victim or a decibel in the"
    " median, so the leakage shown is too low",
}
DOUBTS = frozenset(FLAGS) - {"probe", "no-own-control", "randomised"}
"""Flags with which no row is called protected, however little was recovered."""
