// Search from disk: browsers start no worker from file://, so this stand-in runs the script of one in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.queue = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.onload = () => this.start(new URL(url, location.href));
      document.body.append(this.frame);
    }

    start(address) {
      const inside = this.frame.contentWindow;
      inside.postMessage = (sent) => {
        const data = structuredClone(sent);
        setTimeout(() => this.deliver(new MessageEvent("message", { data })));
      };
      const script = inside.document.createElement("script");
      script.src = address;
      script.onload = () => {
        const queue = this.queue;
        this.queue = null;
        queue.forEach((data) => this.postMessage(data));
      };
      script.onerror = () => this.deliver(new Event("error"));
      inside.document.body.append(script);
    }

    deliver(event) {
      this["on" + event.type]?.(event);
      this.dispatchEvent(event);
    }

    postMessage(data) {
      if (this.queue) this.queue.push(data);
      else {
        const inside = this.frame.contentWindow;
        inside.dispatchEvent(new MessageEvent("message", { data: inside.structuredClone(data) }));
      }
    }

    terminate() {
      this.frame.remove();
    }
  };
}
