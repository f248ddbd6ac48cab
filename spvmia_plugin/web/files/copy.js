// Buttons that copy what stands beside them; without a script there are none, and the text can be selected.
for (const button of document.querySelectorAll("button.copy")) {
  const source = button.parentElement.querySelector("code");
  const byHand = () => { // where the page lies on a server without TLS, which has no clipboard
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    return document.execCommand("copy");
  };
  button.addEventListener("click", async () => {
    let copied = false;
    try {
      await navigator.clipboard.writeText(source.textContent);
      copied = true;
    } catch { copied = byHand(); }
    button.textContent = copied ? "Copied" : "Select and copy";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  button.hidden = false;
}
