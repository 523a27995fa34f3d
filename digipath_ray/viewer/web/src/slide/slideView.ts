/** View of a slide: panes, controls and results. */

import type { Lesion, ShownSlide, SlideImage } from "../page/api";
import { divider } from "./comparison";
import { fill, make, announce } from "../page/dom";
import { listenToKeys, showHelp, type Command } from "./keys";
import { LesionList } from "./lesionList";
import type { Live } from "../page/live";
import type { Tool } from "./measurements";
import { Pane } from "./pane";
import { saveImage } from "./viewImage";
import type { Point } from "./placement";
import { Readout } from "./readout";
import { hrefs } from "../page/route";
import { makeScene, readLines, takeSlide, type Scene } from "./scene";
import { neighbors } from "./slideBar";
import { slideCommands, type KeyActions } from "./slideKeys";
import { SlidePanel } from "./slidePanel";
import { Toolbar } from "./toolbar";

export class SlideView {
  private readonly scene: Scene;
  private readonly readout: Readout;
  private readonly toolbar: Toolbar;
  private readonly commands: Command[];
  private readonly panel: SlidePanel;
  private readonly views = make("div", { class: "views" });
  private readonly line: ReturnType<typeof divider>;
  private readonly closing = new AbortController();
  private lesions = new LesionList([]);
  private panes: Pane[] = [];
  /** Leading view: the one touched last. */
  private leader = 0;

  constructor(
    main: HTMLElement,
    private readonly live: Live,
    slide: ShownSlide,
    /** Called when a layer is outdated. */
    private readonly onOutdated: () => void,
  ) {
    const titles = live.cohort.run_titles;
    this.scene = makeScene(slide, titles);
    const actions = this.makeActions();
    this.readout = new Readout(slide, this.closing.signal);
    this.toolbar = new Toolbar(slide, actions);
    this.commands = slideCommands(actions, this.scene.looks);
    this.panel = new SlidePanel(this.scene.looks, titles, live.cohort.research_use);
    this.line = divider(this.scene.looks);
    fill(main, this.layOut());
    this.addPane("left");
    this.listen();
    this.take(slide);
    this.updateMeasuring();
  }

  shows(image: SlideImage): boolean {
    return JSON.stringify(image) === JSON.stringify(this.scene.slide.image);
  }

  /** Whether the server has different layers. */
  get isOutdated(): boolean {
    return [...this.scene.layers.values()].some((layer) => layer.isOutdated);
  }

  /** Update the slide. */
  take(slide: ShownSlide): void {
    const { scene } = this;
    takeSlide(scene, slide, {
      until: this.closing.signal,
      onChange: () => this.showTiles(),
      onOutdated: () => this.onOutdated(),
    });
    this.readout.take(slide);
    this.lesions = new LesionList(slide.lesions);
    this.lesions.onMark = (lesion) => {
      scene.chosen = lesion;
      this.redraw();
    };
    this.lesions.onChoose = (lesion) => lesion && this.goTo(lesion);
    this.panel.draw(slide, this.lesions.element);
    this.update();
    void this.readLines();
  }

  close(): void {
    this.closing.abort();
    for (const pane of this.panes) pane.close();
  }

  private layOut(): HTMLElement {
    this.views.append(this.line.element);
    const stage = make("section", { class: "viewing", "aria-label": "Slide" });
    fill(stage, this.toolbar.element, this.views, this.readout.element);
    return make("div", { class: "slide-page" }, stage, this.panel.element);
  }

  private listen(): void {
    this.scene.looks.onChange = () => this.update();
    this.scene.measurements.onChange = () => this.updateMeasuring();
    listenToKeys(this.commands, this.closing.signal);
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
    pane.onClick = (point, reach) => this.click(point, reach);
    pane.onDoubleClick = (point) => this.doubleClick(pane, point);
    for (const touch of ["pointerdown", "wheel", "focusin"]) {
      pane.element.addEventListener(touch, () => (this.leader = index), { passive: true });
    }
  }

  private setPanes(number: 1 | 2): void {
    if (this.panes.length === number) return;
    if (number === 2) this.addPane("right");
    else this.panes.pop()?.close();
    this.leader = 0;
  }

  private async readLines(): Promise<void> {
    const { signal } = this.closing;
    await readLines(this.scene, signal, (why) => this.readout.note(why));
    if (!signal.aborted) this.update();
  }

  // Reactions to changes

  private update(): void {
    const { mode } = this.scene.looks;
    this.setPanes(mode === "side" ? 2 : 1);
    this.views.dataset.mode = mode;
    this.line.update();
    this.panel.update();
    for (const pane of this.panes) {
      pane.showPixels();
      pane.drawLegend();
    }
    this.showTiles();
  }

  /** Draw the available tiles, and show whether some are missing. */
  private showTiles(): void {
    const { looks, layers } = this.scene;
    const shown = [...looks.shownOn("left"), ...looks.shownOn("right")];
    const troubles = shown.map(({ id }) => layers.get(id)!.trouble);
    const why = troubles.find((trouble) => trouble !== "");
    this.readout.warn(why === undefined ? "" : `Incomplete: ${why}; retrying`);
    this.redraw();
  }

  private updateMeasuring(): void {
    const { measurements } = this.scene;
    const { tool } = measurements;
    this.toolbar.showTool(measurements);
    this.views.classList.toggle("measuring", tool !== "none");
    this.readout.note(tool === "none" ? measurements.last : HOW_TO[tool]);
    this.redraw();
  }

  private redraw(): void {
    for (const pane of this.panes) pane.redraw();
  }

  private moved(pane: Pane): void {
    if (pane !== this.panes[this.leader]) return;
    for (const other of this.panes) if (other !== pane) other.follow(pane);
    this.toolbar.showView(pane.magnification, pane.pose.mirrored);
    if (this.scene.crosshair) this.readout.show(pane.center);
  }

  private point(point: Point | null): void {
    this.scene.measurements.move(point);
    if (!this.scene.crosshair || point !== null) this.readout.show(point);
  }

  private click(point: Point, reach: number): void {
    if (this.scene.measurements.tool === "none") {
      this.lesions.chooseAt(point);
      this.readout.show(point);
    } else {
      this.scene.measurements.add(point, reach);
    }
  }

  private doubleClick(pane: Pane, point: Point): void {
    const { measurements } = this.scene;
    if (measurements.tool === "none") pane.zoom(2, point);
    else measurements.finish();
  }

  // Actions of buttons and keys

  private get pane(): Pane {
    return this.panes[this.leader];
  }

  private goTo(lesion: Lesion): void {
    const [x, y] = lesion.center;
    this.pane.goTo(lesion.box ?? [x, y, x, y]);
    announce(`Lesion ${lesion.number}`);
  }

  private makeActions(): KeyActions {
    const { scene } = this;
    const { measurements } = scene;
    return {
      magnify: (step) => this.pane.magnify(step),
      zoom: (factor) => this.pane.zoom(factor),
      pan: (right, down) => this.pane.pan(right, down),
      whole: () => this.pane.whole(),
      turn: (degrees) => this.pane.turn(degrees),
      mirror: () => this.pane.mirror(),
      measure: (tool: Tool) => measurements.choose(tool),
      clear: () => measurements.clear(),
      endArea: () => measurements.finish(),
      pointBack: () => measurements.back(),
      pointInMiddle: () => this.pointInMiddle(),
      crosshair: () => this.toggleCross(),
      stepLesion: (by) => this.lesions.step(by),
      stepSlide: (by) => this.stepSlide(by),
      saveImage: () => this.saveImage(),
      help: () => showHelp(this.commands.filter(({ what }) => what)),
    };
  }

  private stepSlide(by: 1 | -1): void {
    const { before, after } = neighbors(this.live, this.scene.slide.key);
    const key = by === 1 ? after : before;
    if (key !== null) location.hash = hrefs.slide(key);
  }

  private saveImage(): void {
    saveImage(this.panes, this.scene, this.live.cohort.research_use).then(
      () => announce("Image saved"),
      (reason: unknown) => this.readout.note(String(reason)),
    );
  }

  private toggleCross(): void {
    this.setCross(!this.scene.crosshair);
    this.readout.show(this.scene.crosshair ? this.pane.center : null);
    this.redraw();
  }

  private pointInMiddle(): void {
    if (this.scene.measurements.tool === "none") return;
    this.setCross(true);
    this.scene.measurements.add(this.pane.center, 0);
  }

  private setCross(shown: boolean): void {
    this.scene.crosshair = shown;
    this.readout.isSpoken = shown;
  }
}

const HOW_TO: Record<Exclude<Tool, "none">, string> = {
  distance: "Click two points.",
  area: "Click corners; click the first one again or double-click to close.",
};
