// Tries the openai client for JavaScript with a server of eftlocal: node openai.mjs ADDRESS (tools/check_clients.py).
import assert from "node:assert/strict";
import OpenAI from "openai";

const model = "demo";
const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "any", maxRetries: 0 });
const question = { role: "user", content: "How large is Lyon?" };
const greedy = { model, messages: [question], temperature: 0 };

async function check(name, run) {
  await run();
  console.log(`openai (JavaScript): ${name}`);
}

let answer;

await check("lists the models", async () => {
  const ids = (await client.models.list()).data.map((each) => each.id);
  assert(ids.includes(model) && ids.includes(`${model}:base`), ids);
  assert.equal((await client.models.retrieve(`${model}:base`)).id, `${model}:base`);
});

await check("answers a chat, with its usage", async () => {
  const found = await client.chat.completions.create(greedy);
  answer = found.choices[0].message.content;
  assert.equal(found.choices[0].finish_reason, "stop");
  assert.equal(found.usage.total_tokens, found.usage.prompt_tokens + found.usage.completion_tokens);
});

await check("streams the same answer, with usage at its end", async () => {
  const parts = [];
  let usage = null;
  const stream = await client.chat.completions.create({
    ...greedy, stream: true, stream_options: { include_usage: true },
  });
  for await (const chunk of stream) {
    parts.push(chunk.choices[0]?.delta?.content ?? "");
    usage = chunk.usage ?? usage;
  }
  assert.equal(parts.join(""), answer);
  assert(usage.completion_tokens > 0);
});

await check("sends fields that only eftlocal knows, and dials in the model's name", async () => {
  const asked = { ...greedy, max_tokens: 30 };
  const field = await client.chat.completions.create({ ...asked, beta: 0 });
  const named = await client.chat.completions.create({ ...asked, model: `${model}@beta=0` });
  assert.equal(field.choices[0].message.content, named.choices[0].message.content);
  assert.notEqual(field.choices[0].message.content, answer);
});

await check("gets JSON of a schema", async () => {
  const schema = {
    type: "object", properties: { big: { enum: ["yes", "no"] } }, required: ["big"], additionalProperties: false,
  };
  const found = await client.chat.completions.parse({
    ...greedy, response_format: { type: "json_schema", json_schema: { name: "size", schema, strict: true } },
  });
  assert(["yes", "no"].includes(found.choices[0].message.parsed.big));
});

await check("gets the log-probabilities of a prompt", async () => {
  const found = await client.completions.create({
    model, prompt: "That would be Asia.", echo: true, logprobs: 1, max_tokens: 0,
  });
  const { token_logprobs: values } = found.choices[0].logprobs;
  assert(values.length > 1 && values[0] === null && values.slice(1).every((value) => value <= 0));
});

await check("reads an error", async () => {
  await assert.rejects(client.chat.completions.create({ ...greedy, top_p: 2 }), (error) => {
    assert(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "top_p");
    return true;
  });
  await assert.rejects(
    client.chat.completions.create({ ...greedy, messages: [{ role: "user", content: "word ".repeat(2000) }] }),
    { status: 400, code: "context_length_exceeded" },
  );
});

await check("ends an answer that nobody wants any more", async () => {
  const stream = await client.chat.completions.create({ ...greedy, beta: 0, stream: true, max_tokens: 400 });
  for await (const chunk of stream) {
    if (chunk.choices[0]?.delta?.content) break; // the client closes the connection
  }
  assert.equal((await client.chat.completions.create(greedy)).choices[0].message.content, answer);
});
