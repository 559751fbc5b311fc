// Sends the secret that follows the # of a login link, and takes it off the address at once.
"use strict";
const enter = () => {
  const secret = location.hash.slice(1);
  if (!secret) return;
  history.replaceState(null, "", location.pathname);
  const form = document.getElementById("login");
  form.elements.secret.value = secret;
  form.requestSubmit();
};
addEventListener("hashchange", enter);
enter();
