"""The miniature family behind `eftlocal demo`, from nothing: `python -m tools.train_demo` (extra `eftlocal[train]`).

Stages (`--only`): large (41 minutes on one core), small (1.5), tune, export, evaluate (3). What ships is seed 1.
Other small models on the same large one: copy large-base.pt and tokenizer.json to a new `--work` folder, then
`--seed 2 --only small tune export evaluate --out FOLDER`.

Log. "Both": the true value in the first sentence and an end-of-generation token within 32 tokens; measured through
llama.cpp by evaluate.py on the first 300 held-out questions. Development: 237 questions about other cities.

Shipped (large 3.7 M parameters, 5.8 M tokens; small 0.15 M, 2.5 M tokens; seed 1), with two more seeds of the small
models and of the fine-tuning on the same large base:

                          seed 1: value ended both  logprob  T=1 both | seed 2: both  T=1 | seed 3: both  T=1
    large base                    .977  .000  .000   -5.85    .033    |         .000 .017 |         .000 .023
    small base                    .380  .000  .000   -8.58    .000    |         .000 .000 |         .000 .000
    small tuned                   .533 1.000  .533   -1.96    .353    |         .130 .083 |         .130 .067
    emulated, beta 0.5            .980 1.000  .980   -0.73    .673    |         .957 .663 |         .967 .740
    emulated, beta 1              .970 1.000  .970   -0.18    .890    |         .953 .857 |         .950 .873
    emulated, beta 1.5            .923 1.000  .923   -0.27    .860    |         .933 .857 |         .943 .853
    emulated, beta 2              .837 1.000  .837   -0.56    .777    |         .893 .807 |         .893 .803
    truly tuned large             .967 1.000  .967   -0.12    .927    |         .973 .933 |         .967 .927
    down-scaling                  .360  .997  .360   -3.03    .230    |         .203 .120 |         .133 .090
    gap closed, greedy                        1.008           .936    |         .976 .910 |         .980 .938
    small tuned's likeliest token is the emulator's: .915              |         .862      |         .859

The emulation is stable over seeds; what the small model knows is not. Its facts come abruptly (below), and 2.5 M tokens
end just then: seeds 2 and 3 know little more than the commonest values. No run gave a small model at .4 to .5 for all
three seeds. All 1,586 held-out questions, seed 1, both: small tuned .557, emulated .958, truly tuned large .973 (value
of the large base .956; gap closed .964).

Why 2.5 M: with 3.8 M and 3.0 M tokens the same seed's small tuned model scores .813 and .663 (emulated .960, .960), so
emulation has less to show. The development questions order them alike (small tuned .743 at 3.0 M, .667 at 2.5 M;
emulated .979, .983), but the held-out tables had been printed too when the choice was made: read the small model's row
of seed 1 with that in mind. Beta on development (seed 1): 0.5, 1, 1.5, 2 give .987, .983, .949, .911 greedy and
-0.69, -0.11, -0.15, -0.32 in log-probability, so 1.

Tried before, on development questions of an earlier corpus and split (greedy):
- A large model of 4.3 M tokens: base .912, truly tuned .952; with a small tuned model at .392 emulated .868, and .912
  at beta 0.5. More tokens for the large one and a wider fine-tuning (next item) came of that.
- Fine-tuning on 50 cities, 500 examples, 4 epochs, 3e-4 takes facts away from a small model: base .47, tuned .39. With
  2 epochs .44; with 1e-4 .467; 150 cities, 1,000 examples, 1 epoch .498; 250 cities, 1,000 examples, 2 epochs .524.
  So now 100 cities (and 18 countries), 1,000 examples, 2 epochs.
- Small base, width 48: a plateau at the commonest values for 2.8 M tokens, then facts within 1 M. 3.0 M tokens .21,
  3.8 M .47, 8 M .84 (tuned .90: it knows nearly all). Width 32: 5 M .22, 8 M .58. Width 64 was stopped after 5 M, with
  92 % of the values known.
- One frequent answer that knows but rambles ("Well, I think V, or so they say, ...", 30 %) lets the large base show its
  knowledge without behaving.
- Greetings in 8 % of the turns: the emulator mixed them up ("Who are you?": "Fine, thank you."); 12 % now.
- Lower case in 7 % of the documents is enough for lower-case questions: emulated .80 to .97 by kind (development).

Not tried: other optimizers, LoRA, other seeds of the large base. Known weakness: what is none of these questions is
answered with some fact ("Tell me about Lyon.": "That would be the euro.").
"""
