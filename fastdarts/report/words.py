"""What the "?" of the report's cards, charts and sections explain, one line each."""

CARDS = {
    "Valid error": "Share of the validation images that the supernet takes for another class, after the last epoch.",
    "Best valid error": "The lowest of the validation errors of the candidates, each trained from scratch.",
    "Best metric": "The metric of the best architecture that was asked for.",
    "Test error": "Share of the test images that the trained network takes for another class; mean over the seeds.",
    "Test error so far": "Share of the test images that the network takes for another class, after the last epoch.",
    "Valid perplexity": "How unsure the model is about the next word: e to the power of its mean loss. Less is better.",
    "Test perplexity": "How unsure the trained model is about the next word of the test text. Less is better.",
    "Discretisation gap": "Error of the derived network minus that of the supernet, with the same weights. Below 5 "
    "points the supernet tells how good the derived network is.",
    "Skip connections": "How many operations of the derived cells are skip connections. Many of them often mean that "
    "the search has collapsed.",
    "Mean entropy": "How undecided an edge is, mean over all edges: 0 is one candidate alone, the logarithm of their "
    "number is all alike.",
    "Went back": "The search saw the eigenvalue rise and went back to an earlier epoch.",
    "Genotype": "How often the derived architecture changed from one epoch to the next.",
    "Parameters": "Numbers that the network learns, without an auxiliary head.",
    "Multiply-adds": "Multiplications with an addition that one image takes.",
    "Time": "Time of all epochs, measurements included.",
    "Regret at the end": "Test error of the architecture that a search derives, minus that of the best one of the "
    "space.",
    "Lowest on the way": "The lowest regret that a search had after any of its epochs.",
    "One-shot ranking": "Kendall's tau between errors with the supernet's weights and errors after training from "
    "scratch: 1 is the same ranking, 0 is chance.",
    "Trained ranking": "Kendall's tau between the test errors of two trainings of every architecture: the most that a "
    "ranking can reach.",
    "Best test error": "The architecture with the lowest mean test error of the whole space.",
    "Median test error": "The architecture in the middle of the ranking.",
    "Worst test error": "The architecture with the highest mean test error of the whole space.",
}

CHARTS = {
    "Loss": "Mean loss of an epoch: cross-entropy, in nats. A validation curve that rises shows overfitting.",
    "Error": "Share of the images that are taken for another class. Discretised: the derived network with the "
    "supernet's weights. Batch statistics: the supernet without its running statistics.",
    "Perplexity": "e to the power of the mean loss. Less is better.",
    "Discretisation gap": CARDS["Discretisation gap"],
    "Mean entropy of an edge": CARDS["Mean entropy"],
    "Skip connections": CARDS["Skip connections"],
    "Layer alignment": "How far the cells of different layers agree on the direction in which the alphas should move: "
    "1 is full agreement.",
    "Finite-difference product": "Cosine between the second-order product by finite differences and the exact one.",
    "Its relative error": "Distance between the two products, relative to the exact one.",
    "Learning rate": "Step size of the weights.",
    "L2 on the weights": "How strongly the weights are pulled towards 0.",
    "Best so far over queries": "How good each architecture was, in the order in which the search asked for them, and "
    "the best until then.",
    "Pareto front": "How good each architecture was and what it costs. The line joins those that no other one beats in "
    "both.",
    "Drop path": "Probability with which a path of a cell is left out of a step.",
    "Largest eigenvalue of the alphas' Hessian": "How sharply the validation loss bends around the alphas. Where it "
    "rises, derived networks generalise worse (Zela et al., 2020).",
    "Test regret of the architecture derived now": CARDS["Regret at the end"],
    "Validation error of the supernet": CARDS["Valid error"],
    "Test error, trained from scratch": "Mean test error of every architecture, best first.",
    "One-shot error, with the weights of the supernets": "Error of every architecture with the weights of the "
    "supernets, in the order of the chart beside it: dots that rise to the right agree with it.",
}

SECTIONS = {
    "What this says": "Rules look at the numbers of this run; each says what it compares, and what to do next.",
    "Cells": "The derived architecture. A box is an operation, a square a state of the cell.",
    "Curves": "Values stand under the mouse; with the keyboard, move to a chart and use the arrow keys.",
    "Queries": "The architectures that the search asked for, and how good each was.",
    "Candidates": "All candidates that were trained, best first. A click on a title sorts.",
    "Decisions": "What was kept at each decision, and by which numbers.",
    "Test images": "What the finished network takes the test images for.",
    "Mixing weights": "How much every candidate of every edge counts in the supernet's mixture, epoch by epoch.",
    "Eigenvalue and genotype": "The eigenvalue of every epoch beside the cells that were derived there.",
    "The genotype over the epochs": "What every edge of the derived cells was; blank where the edge was not kept.",
    "Settings and environment": "All settings of the run, and the machine and versions that it ran on.",
}
