#!/bin/bash
# Turn an unpacked archive into running services. Runs as root, from user data, once.
# Settings come from /etc/nitrosigner/deployed.json alone; see user_data.py.
set -Eeuo pipefail
umask 022

readonly root=/opt/nitrosigner
readonly here=$root/parent/instance
readonly settings=/etc/nitrosigner

chmod -R a+rX "$root"
groupadd --system --force ne
id -u nitrosigner >/dev/null 2>&1 ||
    useradd --system --home-dir /var/lib/nitrosigner --shell /usr/sbin/nologin --groups ne nitrosigner
install -d -m 0750 -o nitrosigner -g nitrosigner /var/log/nitrosigner /var/lib/nitrosigner

# One file for each program, each read by that program's own strict reader.
PYTHONPATH=$root/parent python3.11 -P "$here/write_settings.py" "$settings/deployed.json" "$settings"

install -m 0644 "$settings/allocator.yaml" /etc/nitro_enclaves/allocator.yaml
install -m 0644 "$here"/*.service /etc/systemd/system/
install -D -m 0644 "$here/watchdog-logs.conf" \
    /etc/systemd/system/nitrosigner-watchdog.service.d/logs.conf
install -m 0644 "$here/nitrosigner.logrotate" /etc/logrotate.d/nitrosigner
systemctl enable --now logrotate.timer
install -m 0644 "$here/nitrosigner.tmpfiles" /etc/tmpfiles.d/nitrosigner.conf
systemd-tmpfiles --create nitrosigner.conf
if [[ -f $settings/container.conf ]]; then
    install -D -m 0644 "$settings/container.conf" \
        /etc/systemd/system/nitrosigner-parent.service.d/container.conf
    install -m 0644 "$here/seccomp.json" "$settings/seccomp.json"
    echo "CONTAINER_USER=$(id -u nitrosigner):$(id -g nitrosigner)" >"$settings/container.env"
    systemctl enable --now docker.service
    aws ecr get-login-password |
        docker login --username AWS --password-stdin "$(<"$settings/registry")"
    docker pull --quiet "$(<"$settings/container")"
    docker logout "$(<"$settings/registry")"
fi

systemctl daemon-reload
systemctl enable --now nitro-enclaves-allocator.service
/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent-ctl \
    -a fetch-config -m ec2 -s -c "file:$settings/cloudwatch-agent.json"
# It waits for the key ceremony if there was none, starts the other two, says to Auto
# Scaling when the enclave can sign, and drains when the instance has to go.
systemctl enable --now nitrosigner-lifecycle.service
