"""VLM2Vec's instructions for MTEB's tasks, which are those of the same data sets in MMEB."""

from collections.abc import Mapping
from pathlib import Path

from vlm2vec_evaluation.suite import read_suite

REPRESENT = {
    "image": "Represent the given image.",
    "video": "Understand the content of the provided video.",
    "audio": "Represent the given text, image, video, or audio.",
}
"""VLM2Vec's instruction for what is looked for, by what is shown of it."""
AUDIO = "[AUDIO]"
"""What stands beside an audio that a text looks for."""

SEARCHES = {
    **{f"Vidore{name}Retrieval": f"ViDoRe_{of}" for name, of in {
        "ArxivQA": "arxivqa", "DocVQA": "docvqa", "InfoVQA": "infovqa", "Tabfquad": "tabfquad",
        "Tatdqa": "tatdqa", "ShiftProject": "shiftproject",
        "SyntheticDocQAAI": "syntheticDocQA_artificial_intelligence",
        "SyntheticDocQAEnergy": "syntheticDocQA_energy",
        "SyntheticDocQAGovernmentReports": "syntheticDocQA_government_reports",
        "SyntheticDocQAHealthcareIndustry": "syntheticDocQA_healthcare_industry",
        "2BioMedicalLectures": "biomedical_lectures_v2_multilingual",
        "2EconomicsReports": "economics_reports_v2_multilingual",
        "2ESGReports": "esg_reports_v2_multilingual",
        "2ESGReportsHL": "esg_reports_human_labeled_v2",
    }.items()},
    **{f"VisRAGRet{name.replace('-', '')}": f"VisRAG_{name}" for name in (
        "ArxivQA", "ChartQA", "MP-DocVQA", "SlideVQA", "InfoVQA", "PlotQA",
    )},
    "MMLongBenchDocRetrieval": "MMLongBench-doc",
    "MSVDT2VRetrieval": "MSVD",
    "VATEXT2VRetrieval": "VATEX",
    "YouCook2T2VARetrieval": "YouCook2",
    "SpeechCocoA2IRetrieval": "SpeechCOCO",
}  # fmt: skip
"""Tasks of search, and the data set of MMEB-V3 that has what is asked and what is looked for."""
BACKWARDS = {
    "DiDeMoV2TRetrieval": "DiDeMo",
    "MSVDV2TRetrieval": "MSVD",
    "VATEXVA2TRetrieval": "VATEX",
    "SpeechCocoI2ARetrieval": "SpeechCOCO",
}
"""The same, where the task looks for what asks in MMEB."""
HEARD = {
    "ClothoT2ARetrieval": "Clotho",
    "SoundDescsT2ARetrieval": "SoundDescs",
}
"""Tasks in which a text looks for an audio. Each has a twin that goes the other way."""
CLASSES = {
    "Kinetics700V": "K700",
    "Kinetics700VA": "K700",
    "HMDB51Classification": "HMDB51",
    "HMDB51ZeroShot": "HMDB51",
    "UCF101VideoAudioClassification": "UCF101",
    "UCF101VideoZeroShotClassification": "UCF101",
    "BreakfastClassification": "Breakfast",
    "CREMA_D": "CREMA-D",
    "ESC50": "ESC-50",
    "ESC50_Zeroshot": "ESC-50",
    "NSynth": "NSynth",
    "SpeechCommands": "SpeechCommands",
    "SpeechCommandsZeroshotv0.01": "SpeechCommands",
    "SpeechCommandsZeroshotv0.02": "SpeechCommands",
    "UrbanSound8k": "UrbanSound8K",
    "UrbanSound8kZeroshot": "UrbanSound8K",
}
"""Tasks of classification: what is shown has the instruction, a label has none."""
IMAGES = {
    "MSCOCOT2IRetrieval": (
        "Find me an everyday image that matches the given caption:", REPRESENT["image"],
    ),
    "MSCOCOI2TRetrieval": ("Find an image caption describing the given everyday image.", ""),
    "VisualNewsT2IRetrieval": ("Retrieve an image of this news caption.", REPRESENT["image"]),
    "VisualNewsI2TRetrieval": ("Find a caption for the news in the given photo.", ""),
    "NIGHTSI2IRetrieval": (
        "Find a day-to-day image that looks similar to the provided image.", REPRESENT["image"],
    ),
    "CIRRIT2IRetrieval": (
        "Given an image, find a similar everyday image with the described changes:",
        REPRESENT["image"],
    ),
    "SUN397": ("Identify the scene shown in the image.", ""),
    "SUN397ZeroShot": ("Identify the scene shown in the image.", ""),
    "VOC2007": ("Identify the object shown in the image", ""),
}  # fmt: skip
"""The instructions of MMEB v1 for queries and documents, which stand in its rows."""


def mmeb_instructions() -> dict[str, Mapping[str, str]]:
    """Returns the instructions of "query" and "document" by the name of the task, for
    `ServedEncoder`. Of a task without queries what is shown is the query, a label the document."""
    data_sets = {item.name: item.options for item in read_suite("mmeb_v3", Path()).data_sets}
    pairs = dict(IMAGES)
    for task, name in SEARCHES.items():
        pairs[task] = data_sets[name]["instruction"], data_sets[name]["target"]
    for task, name in BACKWARDS.items():
        pairs[task] = data_sets[name]["target"], data_sets[name]["instruction"]
    for task, name in HEARD.items():
        asks = f"{data_sets[name]['instruction']}\nQuery:"
        pairs |= {task: (asks, AUDIO), task.replace("T2A", "A2T"): (AUDIO, asks)}
    for task, name in CLASSES.items():
        pairs[task] = data_sets[name]["instruction"], ""
    found = {task: {"query": query, "document": document}
             for task, (query, document) in pairs.items()}  # fmt: skip
    # A second edition of a task corrects its data.
    return {f"{task}{edition}": one for task, one in found.items() for edition in ("", ".v2")}
