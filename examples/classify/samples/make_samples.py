"""Writes training.tsv: sentences made from the phrases below, 60 for each of five labels.

They are invented: openings, matters and endings are combined in a fixed order of chance.
The tickets in tickets.json are written by hand and are not among them.
"""

import random
from pathlib import Path

HERE = Path(__file__).parent
EACH = 60
OPENINGS = ["", "Hello, ", "Hi there, ", "Good morning, ", "Please help: ", "Again: ", "Hi team, "]
ENDINGS = ["", ".", ", please look into it", ", thanks", ". Can somebody answer today?",
           ". This is the second time", ", what should I do?", ". Kind regards, Jo"]
PHRASES = {
    "billing": [
        "I was charged twice on my credit card", "the invoice shows the wrong amount",
        "please send an invoice with our VAT number", "my refund has not arrived at the bank",
        "the payment was declined but the money is gone", "why did the subscription price go up",
        "the discount code was not applied to the bill", "I need a receipt for last month",
        "you charged me after I cancelled the subscription", "can we pay by bank transfer",
        "our company address on the invoice is outdated", "the yearly plan was billed as monthly",
        "there is a charge on my statement that I do not know", "I want my money back",
        "please change the credit card we pay with", "the tax on this bill is wrong",
    ],
    "delivery": [
        "my parcel has not arrived", "the tracking number does not work",
        "the package was delivered to a neighbour", "the courier left the box in the rain",
        "the order arrived damaged", "one item is missing from the parcel",
        "can I change the delivery address of my order", "the shipment is stuck at customs",
        "the driver never rang the bell", "tracking has not moved for a week",
        "you sent the wrong size", "when will my order ship", "the box was empty on arrival",
        "I would like to collect the parcel at the depot", "delivery is late by ten days",
        "please send the missing pieces by express courier",
    ],
    "login": [
        "I cannot log in to my account", "the password reset mail never comes",
        "my account is locked after wrong passwords", "the login code on my phone is refused",
        "two factor authentication lost with my old phone", "I forgot which mail I signed up with",
        "it says my password is wrong but it is not", "please unlock my user account",
        "the reset link has expired", "single sign on sends me back to the login page",
        "somebody else signed in to my account", "I want to change the mail of my account",
        "the verification code arrives too late to sign in", "our new colleague cannot sign up",
        "I am logged out every few minutes", "the authenticator app shows no code",
    ],
    "bug": [
        "the app crashes when I open settings", "the page shows error 500 after saving",
        "search returns nothing since the update", "the button does nothing when I click it",
        "uploading a photo freezes the browser", "dates are shown in the wrong time zone",
        "the export file is broken and will not open", "the screen stays white on my tablet",
        "notes I typed are lost after an error", "the latest version is very slow and hangs",
        "the chart shows negative numbers", "sync fails with an unknown error",
        "scrolling jumps back to the top", "printing cuts off the right side of the page",
        "the app drains the battery since the last update", "umlauts are broken in the table",
    ],
    "feature": [
        "it would be great to have a dark theme", "could you add an export to spreadsheet",
        "please support keyboard shortcuts", "we would love an integration with our calendar",
        "an option to sort by date would be useful", "can you add support for Portuguese",
        "I wish there was an offline mode", "a way to share reports with a team would help",
        "please consider an API for developers", "suggestion: let us pin favourite notes",
        "would you consider adding tags", "it would be nice to undo a deleted item",
        "we need a role that can only read", "please add a widget for the home screen",
        "an idea: remind me of unfinished drafts", "could you make the font size adjustable",
    ],
}


def write():
    rng = random.Random(5)
    lines = []
    for label, phrases in PHRASES.items():
        texts = list(phrases)  # each as it is, then in different company until there are enough
        while len(texts) < EACH:
            one, other = rng.sample(phrases, 2)
            joined = rng.choice([one, f"{one} and {other}", f"{one}, also {other}"])
            text = rng.choice(OPENINGS) + joined + rng.choice(ENDINGS)
            if text not in texts:
                texts.append(text)
        lines += [f"{label}\t{text}" for text in texts]
    rng.shuffle(lines)
    (HERE.parent / "training.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
