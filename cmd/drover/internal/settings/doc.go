// Package settings reads the configuration and the profiles of this host, and lists the backends of this program. The
// packages of the commands that need them without a server call it. It keeps no state.
package settings
