// Plays a day on the floor plan. The server sends the day once: looks at midnight, and what changes when.
// `element`, `props` and `watch` come from gradio; whatever is clicked with data-day and data-second brings us there.
const $ = (selector) => element.querySelector(selector);
const pad = (number) => String(Math.floor(number)).padStart(2, "0");
const clock = (s) => `${pad(s / 3600)}:${pad((s / 60) % 60)}:${pad(s % 60)}`;
let day, dots, shown, second = 0, playing = false, last = 0;

function begin() {
  day = props.value;
  if (!day || !day.sensors) return;
  stop();
  dots = day.sensors.map(([id]) => element.querySelector(`[data-sensor="${CSS.escape(id)}"]`));
  shown = day.sensors.map(() => -1);
  $(".scrub").addEventListener("input", (event) => { stop(); show(Number(event.target.value)); });
  $(".play").addEventListener("click", () => (playing ? stop() : play()));
  show(day.at);
}

function show(to) {
  second = Math.max(0, Math.min(86399, to));
  const looks = [...day.first];
  let count = 0;
  while (count < day.changes.length && day.changes[count][0] <= second) {
    looks[day.changes[count][1]] = day.changes[count][2];
    count += 1;
  }
  looks.forEach((look, i) => { if (look !== shown[i]) paint(i, day.looks[look]); shown[i] = look; });
  $(".scrub").value = second;
  $(".scrub").setAttribute("aria-valuetext", clock(second));
  $(".clock").textContent = clock(second);
  const logged = day.logged.find(([begin, end]) => begin <= second && second <= end);
  $(".doing").textContent = logged ? `logged: ${logged[2].replaceAll("_", " ")}` : "";
  $(".latest").replaceChildren(...day.changes.slice(Math.max(0, count - 4), count).reverse().map(line));
  document.documentElement.style.setProperty("--now", `${(100 * second) / 86400}%`);
  document.documentElement.dataset.day = day.day;
}

function paint(i, look) {
  dots[i].style.setProperty("--dot", look.colour);
  dots[i].classList.toggle("on", look.on);
  dots[i].dataset.state = look.text;
}

function line([at, sensor, look]) {
  const item = document.createElement("li");
  const [id, words] = day.sensors[sensor];
  const dot = document.createElement("i");
  dot.style.background = day.looks[look].colour;
  const time = document.createElement("time");
  time.textContent = clock(at);
  item.append(dot, time, ` ${id} ${day.looks[look].text}`, Object.assign(document.createElement("small"), { textContent: words }));
  return item;
}

function play() {
  if (second >= 86390) show(0);
  playing = true;
  last = performance.now();
  $(".play").classList.add("playing");
  $(".play").setAttribute("aria-label", "Pause");
  requestAnimationFrame(tick);
}

function stop() {
  playing = false;
  const button = $(".play");
  if (button) { button.classList.remove("playing"); button.setAttribute("aria-label", "Play"); }
}

function tick(now) {
  if (!playing || !element.isConnected) return;
  const minutesASecond = Number($(".speed").value);
  show(second + ((now - last) / 1000) * minutesASecond * 60);
  last = now;
  if (second >= 86399) stop(); else requestAnimationFrame(tick);
}

// One listener for the page, for the strips are drawn anew at each question.
if (window.casitaSeek) document.removeEventListener("click", window.casitaSeek);
window.casitaSeek = (event) => {
  const target = event.target.closest("[data-day]");
  if (!target || target === document.documentElement) return;
  const box = target.getBoundingClientRect();
  const to = target.dataset.second ? Number(target.dataset.second) : (86400 * (event.clientX - box.left)) / box.width;
  if (target.dataset.day === day.day) { stop(); show(to); } else trigger("click", { day: target.dataset.day, second: to });
};
document.addEventListener("click", window.casitaSeek);
watch("value", begin);
begin();
