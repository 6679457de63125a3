"""Ask a service with the official OpenAI client, streamed.

    python openai_client.py DIRECTORY

DIRECTORY is what `pw optimize -o` wrote. A service that runs already needs only its base URL.
"""

import sys

import openai

import pennyweight as pw


def main(directory: str) -> None:
    with pw.open_service(directory) as endpoint:
        client = openai.OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="not needed")
        stream = client.chat.completions.create(
            model=endpoint.model,
            messages=[{"role": "user", "content": "Why is the sky blue?"}],
            max_tokens=32,
            stream=True,
        )
        for chunk in stream:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
        print()


if __name__ == "__main__":
    main(sys.argv[1])
