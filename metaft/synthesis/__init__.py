"""From documents to question-answer splits through a generating model.

documents   text, Markdown, HTML and PDF files -> plain text
passages    plain text -> passages with their character spans
prompting   what the model is asked, the JSON it must answer with, the strict reading of it
endpoint    a generating model behind an OpenAI-compatible server
local       a generating Phi-3 of our own
answers     asks what was not asked before and keeps every answer
checks      which examples are good, and why the others are not
splitting   train, validation and test by document
"""
