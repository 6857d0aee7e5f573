"use strict";
// One trial at a time. Text from the server is only ever set as text, never as HTML.
const at = (id) => document.getElementById(id);
const players = { left: at("left"), right: at("right") };
let rater = "";
let trial = null;
let heard = new Set();

async function ask(path, body) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error);
  return value;
}

function enable(on) {
  for (const button of at("scale").querySelectorAll("button")) button.disabled = !on;
}

async function next() {
  const found = await ask("/api/next", { rater });
  at("enter").hidden = true;
  at("trial").hidden = found.trial === null;
  trial = found.trial;
  if (trial === null) {
    at("message").textContent = "That was all. Thank you.";
    return;
  }
  at("caption").textContent = found.caption;
  at("progress").textContent = `${found.done + 1} of ${found.total}`;
  heard = new Set();
  enable(false);
  at("message").textContent = "Play both clips, then choose.";
  for (const [side, player] of Object.entries(players)) {
    player.src = `/clip/${encodeURIComponent(trial)}/${side}`;
  }
}

async function rate(score) {
  if (trial === null || heard.size < 2) return;
  const rated = trial;
  trial = null; // a second key press is not a second rating
  enable(false);
  for (const player of Object.values(players)) player.pause();
  try {
    await ask("/api/rate", { trial: rated, rater, score });
    await next();
  } catch (error) {
    trial = rated;
    enable(true);
    at("message").textContent = `Not kept: ${error.message}. Try again.`;
  }
}

function toggle(side) {
  const other = players[side === "left" ? "right" : "left"];
  other.pause();
  const player = players[side];
  if (player.paused) player.play();
  else player.pause();
}

for (const [side, player] of Object.entries(players)) {
  player.addEventListener("play", () => {
    players[side === "left" ? "right" : "left"].pause();
    heard.add(side);
    if (heard.size === 2 && trial !== null) enable(true);
  });
}

at("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = at("rater").value.trim();
  next().catch((error) => { at("message").textContent = error.message; });
});

at("scale").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) rate(Number(button.value));
});

document.addEventListener("keydown", (event) => {
  if (at("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.repeat) return;
  const key = event.key.toLowerCase();
  if (key === "a") toggle("left");
  else if (key === "b") toggle("right");
  else if ("12345".includes(key)) rate(Number(key));
});
