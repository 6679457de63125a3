"""`python -m pennyweight.worker --spec … --port …`: serve one deployment with the OpenAI API."""

from pennyweight.worker.app import main

if __name__ == "__main__":
    main()
