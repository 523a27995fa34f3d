/** A slide: its views, and beside them layers, comparison, lesions, facts, exports. */

import { ask, url, type Lesion, type ShownSlide, type Slide } from "../page/api";
import { comparisonPanel, divider } from "./comparison";
import { fill, make, say } from "../page/dom";
import { layerCommands } from "./layerKeys";
import { listenToKeys, magnifyCommands, showHelp, type Command } from "./keys";
import { layerPanel } from "./layerPanel";
import { LesionList } from "./lesionList";
import type { Live } from "../page/live";
import { Looks } from "./looks";
import { Measurements, type Tool } from "./measurements";
import { readOutlines } from "./outlines";
import { Pane, type Scene } from "./pane";
import { savePicture } from "./picture";
import type { Point } from "./placement";
import { Readout } from "./readout";
import { refusal, unreadable } from "./refusal";
import { hrefs } from "../page/route";
import { drawSlideBar, neighbors } from "./slideBar";
import { slidePanel } from "./slidePanel";
import { Toolbar } from "./toolbar";
import { ValueLayer } from "./valueLayer";
import { natural } from "../page/words";

export async function showSlide(
  main: HTMLElement,
  live: Live,
  key: string,
  until: AbortSignal,
): Promise<void> {
  drawSlideBar(live, key);
  fill(main, make("p", { class: "empty" }, "Opening the slide\u2026"));
  try {
    const slide = await ask<Slide>(`slides/${key}`, until);
    if (until.aborted) return;
    nameRuns(slide);
    if (isShown(slide)) new SlidePage(main, live, slide, until);
    else fill(main, unreadable(slide));
  } catch (reason) {
    if (!until.aborted) fill(main, refusal(reason));
  }
}

/** Of two runs, a layer's label says whose it is, and each run's layers stand together. */
function nameRuns({ layers }: Slide): void {
  const twice = layers.filter(({ run, name }) =>
    layers.some((other) => other.name === name && other.run !== run),
  );
  for (const layer of twice) layer.label += ` (${layer.run})`;
  layers.sort((a, b) => natural(a.run, b.run));
}

function isShown(slide: Slide): slide is ShownSlide {
  return slide.image !== null;
}

class SlidePage {
  private readonly looks: Looks;
  private readonly measurements: Measurements;
  private readonly scene: Scene;
  private readonly lesions: LesionList;
  private readonly readout: Readout;
  private readonly toolbar: Toolbar;
  private readonly commands: Command[];
  private readonly views = make("div", { class: "views" });
  private readonly updates: (() => void)[] = [];
  private panes: Pane[] = [];
  /** The view that the other follows: the one last touched. */
  private leader = 0;

  constructor(
    main: HTMLElement,
    private readonly live: Live,
    private readonly slide: ShownSlide,
    private readonly until: AbortSignal,
  ) {
    this.looks = new Looks(slide);
    this.measurements = new Measurements(slide.image);
    this.scene = this.makeScene();
    this.lesions = new LesionList(slide.lesions);
    this.readout = new Readout(slide, until);
    this.toolbar = new Toolbar(slide, this.actions());
    this.commands = this.makeCommands();
    fill(main, this.layOut());
    this.addPane("left");
    this.listen();
    this.update();
    this.updateMeasuring();
    void this.readLines();
  }

  private makeScene(): Scene {
    const { key } = this.slide;
    const arrived = () => this.redraw();
    const failed = (why: string) => this.readout.note(`Not all is shown. ${why}: trying again`);
    const layers = this.slide.layers.map(
      (layer) => [layer.id, new ValueLayer(layer, key, this.until, arrived, failed)] as const,
    );
    return {
      slide: this.slide,
      looks: this.looks,
      layers: new Map(layers),
      outlines: new Map(),
      truth: [],
      chosen: null,
      measurements: this.measurements,
      crosshair: false,
    };
  }

  private listen(): void {
    this.looks.onChange = () => this.update();
    this.measurements.onChange = () => this.updateMeasuring();
    this.lesions.onMark = (lesion) => {
      this.scene.chosen = lesion;
      this.redraw();
    };
    this.lesions.onChoose = (lesion) => lesion && this.goTo(lesion);
    listenToKeys(this.commands, this.until);
    this.until.addEventListener("abort", () => this.panes.forEach((pane) => pane.close()));
    this.live.watch((part, keys) => {
      const changed = part === "slides" && keys.has(this.slide.key);
      // What was waiting has been done, or the other way about: all of it is new.
      if (changed && this.live.entry(this.slide.key)?.status !== this.slide.status) {
        window.dispatchEvent(new HashChangeEvent("hashchange"));
      }
    }, this.until);
  }

  // What the page is made of

  private layOut(): HTMLElement {
    const line = divider(this.looks);
    this.updates.push(line.update);
    this.views.append(line.element);
    const stage = make("section", { class: "viewing", "aria-label": "Slide" });
    fill(stage, this.toolbar.element, this.views, this.readout.element);
    return make("div", { class: "slide-page" }, stage, this.panel());
  }

  private panel(): HTMLElement {
    const { cohort } = this.live;
    const layers = layerPanel(this.looks, cohort.run_titles);
    const comparison = comparisonPanel(this.looks);
    this.updates.push(layers.update, comparison.update);
    return slidePanel(this.slide, {
      comparison: comparison.element,
      layers: layers.element,
      lesions: this.lesions.element,
      researchUse: cohort.research_use,
    });
  }

  private addPane(side: "left" | "right"): void {
    const pane = new Pane(this.scene, side, this.views);
    const index = this.panes.push(pane) - 1;
    pane.onReady = () => {
      if (index === 0) this.moved(pane);
      else pane.follow(this.panes[0]);
    };
    pane.onMoved = () => this.moved(pane);
    pane.onPointer = (point) => this.point(point);
    pane.onClick = (point, event) => this.click(point, event);
    for (const touch of ["pointerdown", "wheel", "focusin"]) {
      pane.element.addEventListener(touch, () => (this.leader = index), { passive: true });
    }
    pane.drawLegend();
  }

  private setPanes(number: 1 | 2): void {
    if (this.panes.length === number) return;
    if (number === 2) this.addPane("right");
    else this.panes.pop()?.close();
    this.leader = 0;
  }

  private async readLines(): Promise<void> {
    const { slide, scene, until } = this;
    const runs = slide.outlines ? new Set(slide.layers.map((layer) => layer.run)) : [];
    const nothing = () => [];
    for (const run of runs) {
      const lines = await readOutlines(url.outlines(slide.key, run), until).catch(nothing);
      scene.outlines.set(run, lines);
    }
    if (slide.truth_outlines) {
      scene.truth = await readOutlines(url.truth(slide.key), until).catch(nothing);
    }
    if (!until.aborted) this.update();
  }

  // What follows a change

  private update(): void {
    this.setPanes(this.looks.mode === "side" ? 2 : 1);
    this.views.dataset.mode = this.looks.mode;
    for (const update of this.updates) update();
    for (const pane of this.panes) pane.drawLegend();
    this.redraw();
  }

  private updateMeasuring(): void {
    const { tool } = this.measurements;
    this.toolbar.showTool(this.measurements);
    this.views.classList.toggle("measuring", tool !== "none");
    this.readout.note(tool === "none" ? this.measurements.last : HOW_TO[tool]);
    this.redraw();
  }

  private redraw(): void {
    for (const pane of this.panes) pane.redraw();
  }

  private moved(pane: Pane): void {
    if (pane !== this.panes[this.leader]) return;
    for (const other of this.panes) if (other !== pane) other.follow(pane);
    this.toolbar.showMagnification(pane.magnification);
    if (this.scene.crosshair) this.readout.show(pane.center);
  }

  private point(point: Point | null): void {
    this.measurements.move(point);
    if (!this.scene.crosshair || point !== null) this.readout.show(point);
  }

  private click(point: Point, event: { preventDefaultAction: boolean }): void {
    if (this.measurements.tool === "none") {
      this.lesions.chooseAt(point);
      this.readout.show(point);
      return;
    }
    event.preventDefaultAction = true;
    this.measurements.add(point);
  }

  // What buttons and keys do

  private get pane(): Pane {
    return this.panes[this.leader];
  }

  private goTo(lesion: Lesion): void {
    const [x, y] = lesion.center;
    this.pane.goTo(lesion.box ?? [x, y, x, y]);
    say(`Lesion ${lesion.number}`);
  }

  private zoom(factor: number): void {
    this.pane.viewer.viewport.zoomBy(factor).applyConstraints();
  }

  private pan(right: number, down: number): void {
    const { viewport } = this.pane.viewer;
    const by = viewport.deltaPointsFromPixels(this.pane.viewer.viewport.getContainerSize());
    by.x *= 0.15 * right;
    by.y *= 0.15 * down;
    viewport.panBy(by).applyConstraints();
  }

  private measure(tool: Tool): void {
    this.measurements.choose(tool);
  }

  private picture(): void {
    const notice = this.live.cohort.research_use;
    savePicture(this.panes, this.scene, notice).then(
      () => say("Picture saved"),
      (reason: unknown) => this.readout.note(String(reason)),
    );
  }

  private actions() {
    return {
      magnify: (step: number) => this.pane.magnify(step),
      zoom: (factor: number) => this.zoom(factor),
      whole: () => void this.pane.viewer.viewport.goHome(),
      turn: (degrees: number) => this.pane.turn(degrees),
      measure: (tool: Tool) => this.measure(tool),
      clear: () => this.measurements.clear(),
      picture: () => this.picture(),
      help: () => showHelp(this.commands.filter(({ what }) => what)),
    };
  }

  private makeCommands(): Command[] {
    const { looks, measurements, lesions } = this;
    const actions = this.actions();
    const to = (key: string | null) => key !== null && (location.hash = hrefs.slide(key));
    return [
      {
        keys: ["ArrowLeft"],
        shown: ["\u2190", "\u2192", "\u2191", "\u2193"],
        what: "Move",
        run: () => this.pan(-1, 0),
      },
      { keys: ["ArrowRight"], what: "", run: () => this.pan(1, 0) },
      { keys: ["ArrowUp"], what: "", run: () => this.pan(0, -1) },
      { keys: ["ArrowDown"], what: "", run: () => this.pan(0, 1) },
      { keys: ["+", "="], what: "Zoom in", run: () => this.zoom(1.5) },
      { keys: ["-"], what: "Zoom out", run: () => this.zoom(1 / 1.5) },
      { keys: ["0"], what: "Whole slide", run: actions.whole },
      ...magnifyCommands(actions.magnify),
      { keys: ["r"], what: "Turn right", run: () => this.pane.turn(90) },
      { keys: ["R"], what: "Turn left", run: () => this.pane.turn(-90) },
      ...layerCommands(looks),
      { keys: ["n"], what: "Next lesion", run: () => lesions.step(1) },
      { keys: ["N"], what: "Lesion before", run: () => lesions.step(-1) },
      { keys: ["m"], what: "Measure a distance", run: () => this.measure("distance") },
      { keys: ["a"], what: "Measure an area", run: () => this.measure("area") },
      {
        keys: ["c"],
        what: "Crosshair in the middle, and its values",
        run: () => this.toggleCross(),
      },
      {
        keys: [" "],
        what: "A point of the measurement, in the middle",
        run: () => this.pointInMiddle(),
      },
      { keys: ["Enter"], what: "End the area", run: () => measurements.finish() },
      { keys: ["Escape", "Backspace"], what: "One point back", run: () => measurements.back() },
      {
        keys: ["j"],
        what: "Next slide",
        run: () => to(neighbors(this.live, this.slide.key).after),
      },
      {
        keys: ["k"],
        what: "Slide before",
        run: () => to(neighbors(this.live, this.slide.key).before),
      },
      { keys: ["p"], what: "Save this view as a PNG", run: actions.picture },
      { keys: ["?"], what: "This list", run: actions.help },
    ];
  }

  private toggleCross(): void {
    this.scene.crosshair = !this.scene.crosshair;
    this.readout.show(this.scene.crosshair ? this.pane.center : null);
    this.redraw();
  }

  private pointInMiddle(): void {
    if (this.measurements.tool === "none") return;
    this.scene.crosshair = true;
    this.measurements.add(this.pane.center);
  }
}

const HOW_TO: Record<Exclude<Tool, "none">, string> = {
  distance: "Click two points. Esc ends.",
  area: "Click corners, Enter closes. Esc takes one back.",
};
