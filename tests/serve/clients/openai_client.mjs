// The official openai client for node: a tool call, whole and streamed, and a stream of text. Prints what it read.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "hi" }];
const parameters = {
  type: "object", properties: { place: { type: "string", enum: ["north", "south"] } }, required: ["place"],
  additionalProperties: false,
};
const asked = {
  model: "model", messages, temperature: 0, max_tokens: 220, parallel_tool_calls: false, tool_choice: "required",
  tools: [{ type: "function", function: { name: "weather", parameters } }],
};
const whole = await client.chat.completions.create(asked);
const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
let events = 0, text = "";
const stream = await client.chat.completions.create({
  model: "model", messages, max_tokens: 8, stream: true, stream_options: { include_usage: true },
});
let usage = null;
for await (const chunk of stream) {
  events += 1;
  text += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
const response = await client.responses.create({ model: "model", input: "hi", max_output_tokens: 8 }).catch((e) => e);
let refused = "";
try {
  await client.chat.completions.create({ model: "model", messages, temperature: "warm" });
} catch (error) {
  refused = `${error.constructor.name}: ${error.message}`;
}
console.log(JSON.stringify({
  whole: whole.choices[0].message.tool_calls[0].function.arguments,
  streamed: streamed.choices[0].message.tool_calls[0].function.arguments,
  text, events, usage, refused, output: response.output_text ?? String(response),
}));
