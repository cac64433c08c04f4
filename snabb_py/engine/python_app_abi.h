/* Apps written in Python: C steps that call Python only when there is work.
 * state: a cffi handle of the Python object (kept alive by the engine). */

uint32_t python_app_pull_step(struct app *app);
uint32_t python_app_push_step(struct app *app);
void python_app_tick_step(struct app *app);
uint32_t python_app_retire_step(struct app *app);
uint32_t python_app_held_step(const struct app *app);
