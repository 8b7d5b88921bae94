"""Tries LangChain's ChatOpenAI with a server of eftlocal: `python langchain.py ADDRESS` (tools/check_clients.py)."""

import sys
from collections.abc import Callable
from typing import Literal

from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, ConfigDict

QUESTION = "How large is Lyon?"
address = f"{sys.argv[1]}/v1"


def chat(**more: object) -> ChatOpenAI:
    return ChatOpenAI(model="demo", base_url=address, api_key="any", temperature=0, max_retries=0, **more)


class Size(BaseModel):
    model_config = ConfigDict(extra="forbid")
    big: Literal["yes", "no"]


def check(name: str, run: Callable[[], object]) -> None:
    assert run(), name
    print(f"LangChain: {name}")


answer = chat().invoke(QUESTION)
check("answers, with its usage", lambda: answer.text and answer.usage_metadata["output_tokens"] > 0)
check("streams the same answer", lambda: "".join(part.text for part in chat().stream(QUESTION)) == answer.text)
check(
    "reads a conversation",
    lambda: chat().invoke(
        [SystemMessage("Be brief."), HumanMessage(QUESTION), AIMessage("520,000."), HumanMessage("Why?")],
    ),
)
check(
    "asks several at a time",
    lambda: [a.text for a in chat().batch([QUESTION] * 8, {"max_concurrency": 8})] == [answer.text] * 8,
)
check("sends beta", lambda: chat(extra_body={"beta": 0}, max_tokens=20).invoke(QUESTION).text != answer.text)
check("gets an object of a schema", lambda: chat().with_structured_output(Size).invoke(QUESTION).big in ("yes", "no"))
completions = OpenAI(model="demo", base_url=address, api_key="any", max_tokens=9)
check("completes a text", lambda: completions.invoke("That would"))
try:
    chat().invoke("word " * 2000)
except ContextOverflowError:
    print("LangChain: knows that a prompt is too long")
else:
    raise AssertionError("no error for a prompt that is too long")
