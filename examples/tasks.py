"""Ready-made tasks: the prompt, the sampling and the parsing of the answer come with each."""

from qwick import Qwen, tasks

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

with Qwen.load(ctx=2048) as qwen:
    solved = tasks.math("What is 12 + 5?").run(qwen, max_tokens=96)
    print("maths:", solved.value.answer)  # what stands in \boxed{}

    wish = tasks.code("A function add(a, b) that returns the sum.", language="python")
    print("code:", wish.run(qwen, max_tokens=64).value.code)

    both = tasks.languages("What is the capital of France?", ["English", "French"])
    print("languages:", both.run(qwen, max_tokens=16).value)

    found = tasks.extract("Anna Schmidt, 34, lives in Berlin.", PERSON).run(qwen)
    print("extracted:", found.value)

    lesson = tasks.tutor("What is 1/2 + 1/4?", subject="maths", level="age 10")
    with lesson.stream(qwen, temperature=0, max_tokens=24) as stream:
        print("tutor:", *(chunk.text for chunk in stream), sep="")
    print("troubles:", stream.answer.troubles)  # it was cut off, and says so
