// Package settings reads the configuration and the profiles of this host, and lists the backends of this program.
package settings
