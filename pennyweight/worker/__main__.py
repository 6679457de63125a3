"""`python -m pennyweight.worker --description … --port …`: serve one deployment with the OpenAI API."""

from pennyweight.worker.app import main

if __name__ == "__main__":
    main()
