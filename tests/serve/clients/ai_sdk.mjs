// The AI SDK: text, a stream, a tool call and an object by schema. Prints what it read.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const model = createOpenAICompatible({
  name: "pennyweight", baseURL: process.argv[2], includeUsage: true, supportsStructuredOutputs: true,
})("model");
const place = z.object({ place: z.enum(["north", "south"]) });
const common = { model, prompt: "hi", maxRetries: 0, temperature: 0 };

const text = await generateText({ ...common, maxOutputTokens: 8 });
const stream = streamText({ ...common, maxOutputTokens: 8 });
let streamed = "";
for await (const piece of stream.textStream) streamed += piece;
const called = await generateText({
  ...common, maxOutputTokens: 160, toolChoice: "required",
  providerOptions: { pennyweight: { parallel_tool_calls: false } },
  tools: { weather: tool({ description: "How it is", inputSchema: place }) },
});
const object = await generateObject({ ...common, maxOutputTokens: 220, schema: place });
console.log(JSON.stringify({
  text: text.text, streamed, usage: await stream.usage, finish: text.finishReason,
  calls: called.toolCalls.map((call) => ({ name: call.toolName, input: call.input })), object: object.object,
}));
