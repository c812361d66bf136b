/*
 * The first process of the kernel comparison: says on the console that it runs, and waits for the plug to be pulled.
 */
#include <fcntl.h>
#include <sys/mount.h>
#include <unistd.h>

static const char line[] = "bench: first process\n";

int main(void)
{
	int console;

	/* Debian's kernel leaves /dev to the first process. Where the kernel has mounted it already, this fails and nothing is lost. */
	mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID | MS_NOEXEC, "");
	console = open("/dev/console", O_WRONLY | O_NOCTTY);
	if (console < 0 || write(console, line, sizeof(line) - 1) < 0)
		return 1; /* the kernel panics, and the measurement says so */
	for (;;)
		pause();
}
